"""What the command says to mistakes: all of them, where they are, and no traceback."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import traceback
from pathlib import Path

import pytest
from diffusers.utils import logging

from flowbp.config import ConfigurationError
from flowbp.run import main
from flowbp.settings import preflight
from flowbp.settings.run_identity import FREE, ROUNDING

MISTAKES = {
    "unknown key": (["training.step=3"], ["training.step: is an unknown key", "`steps`"]),
    "unknown name": (["method={name: brigde}"], ["method.name", "Did you mean `bridge`"]),
    "wrong type": (["batching.samples=two"], ["batching.samples: must be an integer, got 'two'"]),
    "size by another word": (
        ["batching.pull=all"],
        ["batching.pull: must be an integer or 'auto', got 'all'"],
    ),
    "size of nothing": (
        ["batching.decode=null"],
        ["batching.decode: must be an integer or 'auto'"],
    ),
    "checkpointing by another word": (
        ["backbone.gradient_checkpointing=sometimes"],
        ["backbone.gradient_checkpointing: must be true or false or 'auto', got 'sometimes'"],
    ),
    "wrong value": (["method.alpha=2"], ["method.alpha: must be a number in [0, 1], got 2"]),
    "method and grid": (["method.active=5"], ["method.active: must be in [2, 4], got 5"]),
    "axes without effect": (
        [
            "method={name: variant, method: {name: sparse, active: 3}, alpha: 0.5, "
            "reward_input: posterior_mean}"
        ],
        ["method.reward_input: must", "Sparse", "'posterior_mean'", "`alpha` must", "got 0.5"],
    ),
    "warm-up": (["schedule={name: constant, warmup: 2}"], ["schedule.warmup: must be below"]),
    "average of the start": (
        ["training={steps: 60, averaging: {decay: 0.995}}"],
        ["training.averaging: has decay 0.995", "make up 74% of what", "warmup=true"],
    ),
    "judge alone": (["judge.name=shapes"], ["judge: is 'shapes'", "judge=null"]),
    "too many samples": (
        ["samples={every: 1, count: 9}", "evaluation.prompts={name: shapes, count: 6}"],
        ["samples.count: must be in [1, 6]", "got 9"],
    ),
    "no such device": (["run.device=quantum"], ["run.device: must be auto, cpu", "'quantum'"]),
    "supplied argument": (["reward.device=cpu"], ["reward.device: is supplied by the run"]),
    "missing overlay": (["other.yaml"], ["other.yaml: cannot be read"]),
    "missing prompts": (
        ["prompts={name: text, path: none.txt}"],
        ["prompts.path: must be a file of prompts", "none.txt", "check the path"],
    ),
    "missing model": (
        ["backbone.source=/no/model"],
        ["command line: backbone.source: ", "/no/model"],
    ),
    "picture size": (
        ["sampling={steps: 4, guidance: 1, height: 17, width: 2}"],
        [
            "command line: sampling.height: must be a positive multiple of 4, got 17; the nearest "
            "are 16 and 20",
            "command line: sampling.width: must be a positive multiple of 4, got 2; the nearest is",
        ],
    ),
}


@pytest.mark.parametrize("typed, pieces", MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_told_without_a_traceback(yaml, tmp_path, capsys, typed, pieces):
    assert main([yaml, *typed]) == 2
    told = capsys.readouterr().err
    assert all(piece in told for piece in pieces), told
    assert "Traceback" not in told
    assert not (tmp_path / "run").exists()


def test_all_mistakes_are_told_at_once(yaml, tmp_path, capsys):
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("sampling:\n  step: 3\nloss: {name: hinge}\n")
    assert main([yaml, str(overlay), "run.seed=-1", "method.alhpa=1"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("4 problems in the configuration:")
    for piece in (
        "overlay.yaml:2: sampling.step",
        "overlay.yaml:3: loss.target: is missing",
        "command line: run.seed",
        "command line: method.alhpa",
    ):
        assert piece in told


def test_what_is_read_ahead_is_told_with_all_else(yaml, capsys):
    typed = ["backbone.source=/no/model", "reward.source=/no/reward", "training.steps=0"]
    assert main([yaml, *typed, "checkpoints.keep=2"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("4 problems in the configuration:"), told
    for piece in ("/no/model", "/no/reward", "training.steps", "checkpoints.keep"):
        assert piece in told


def test_what_is_read_ahead_is_read_without_the_chatter_of_the_libraries(yaml, monkeypatch):
    levels = []

    def ahead(settings):
        levels.append(logging.get_verbosity())
        return iter(())

    monkeypatch.setattr(preflight, "reading_checks", lambda *_: (ahead,))
    assert main([yaml, "training.steps=0"]) == 2
    assert levels == [logging.ERROR]


def test_a_missing_model_and_a_missing_reward_are_told_together(yaml, capsys):
    assert main([yaml, "backbone.source=/no/model", "reward.source=/no/reward"]) == 2
    told = capsys.readouterr().err
    assert "2 problems" in told and "/no/model" in told and "/no/reward" in told


@pytest.mark.parametrize("option", [[], ["--check"]])
def test_occupied_folder_is_refused_and_left_alone(yaml, tmp_path, capsys, option):
    kept = tmp_path / "run" / "metrics.jsonl"
    kept.parent.mkdir()
    kept.write_text("precious")
    assert main([yaml, *option]) == 2
    told = capsys.readouterr().err
    assert "run.folder: is" in told and f"run.folder={tmp_path / 'run-2'}" in told
    assert kept.read_text() == "precious" and [*kept.parent.iterdir()] == [kept]


def test_help_and_unknown_options(capsys):
    with pytest.raises(SystemExit) as left:
        main(["--help"])
    assert left.value.code == 0
    told = capsys.readouterr().out
    assert "dotted.key=value" in told and "examples:" in told and "--check" in told
    assert "'run.folder=runs/try #2'" in told and "what was typed" in told
    changeable = " ".join(told.split("all that is in it:")[1].split("examples:")[0].split())
    assert changeable == ", ".join(("training.steps upwards", *FREE, *ROUNDING))
    for typed in ([], ["--chekc"]):
        with pytest.raises(SystemExit) as left:
            main(typed)
        assert left.value.code == 2


def test_module_runs_as_a_command(tmp_path):
    told = subprocess.run(
        [sys.executable, "-m", "flowbp.run", "missing.yaml"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )
    assert told.returncode == 2 and told.stdout == ""
    assert "missing.yaml: cannot be read" in told.stderr and "Traceback" not in told.stderr


def test_debug_raises_what_is_else_a_sentence(yaml, tmp_path, monkeypatch, capsys):
    name = f"faulty_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text("def make():\n    return None + 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    typed = [yaml, f"reward={{name: '{name}:make'}}"]
    assert main(typed) == 2
    told = capsys.readouterr().err
    assert "Traceback" not in told and "flowbp/" not in told
    assert f"{name}:make raised TypeError" in told
    assert f'{name}.py", line 2, in make' in told and "return None + 1" in told
    with pytest.raises(ConfigurationError) as caught:
        main([*typed, "--debug"])
    told = "".join(traceback.format_exception(caught.value))
    assert f"{name}.py" in told and "return None + 1" in told


def test_a_reward_that_cannot_be_called_is_found_before_anything_runs(
    yaml, tmp_path, capsys, monkeypatch
):
    (tmp_path / "uncallable_rewards.py").write_text("class Red:\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    typed = ["reward={name: 'uncallable_rewards:Red'}", f"run.folder={tmp_path / 'run'}"]
    assert main([yaml, *typed]) == 2
    told = capsys.readouterr().err
    assert "reward.name: names 'uncallable_rewards:Red'" in told and "cannot be called" in told
    assert not (tmp_path / "run").exists()


def test_what_a_reward_reads_is_checked_with_all_that_is_wrong(yaml, tmp_path, capsys):
    cut = tmp_path / "cut.pt"
    cut.write_bytes(b"PK")
    typed = [
        yaml,
        f"reward={{name: hpsv2, source: {cut}, verify: false}}",
        "backbone.source=/no/such/folder",
    ]
    assert main([*typed, "--check"]) == 2
    told = capsys.readouterr().err
    assert "problems in the configuration" in told and "backbone.source: " in told
    assert str(cut) in told


def test_check_tells_where_a_reward_is_read_from(capsys, tmp_path):
    assert main(["container.yaml", f"run.folder={tmp_path / 'run'}", "--check"]) == 0
    told = capsys.readouterr().out
    assert "\n  reward reads " in told and "the reward reads the sample" in told


def test_a_reward_that_is_not_there_is_told_before_the_model_is_loaded(yaml, tmp_path, capsys):
    assert main([yaml, f"reward={{name: hpsv2, source: {tmp_path / 'no.pt'}}}"]) == 2
    assert "no.pt" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("option", [[], ["--check"]])
def test_a_size_is_refused_without_weights_and_with_all_that_is_wrong(
    yaml, models, tmp_path, capsys, option
):
    base = shutil.copytree(models / "base", tmp_path / "base")
    for weights in base.rglob("*.safetensors"):
        weights.unlink()
    typed = [f"backbone.source={base}", "sampling.width=18", "reward.source=/no/reward", *option]
    assert main([yaml, *typed]) == 2
    told = capsys.readouterr().err
    assert told.startswith("3 problems") and "/no/reward" in told
    assert "has no diffusion_pytorch_model.safetensors" in told
    wanted = "sampling.width: must be a positive multiple of 4, got 18; the nearest are 16 and 20"
    assert f"command line: {wanted}" in told
    assert not (tmp_path / "run").exists()


FIVE = """\
run: {{folder: {folder}/run, device: cpu}}
backbone: {{name: sd3, source: {models}/base, text_length: 4, use_t5: false}}
reward: {{name: clip, source: {folder}/no-reward}}
prompts: {{name: shapes}}
loss: {{name: linear}}
sampling: {{step: 9, height: 16, width: 18}}
checkpoints: {{every: null}}
training: {{steps: 30, averaging: {{decay: 0.99, warmup: false}}}}
optimizer: {{name: '{failing}:Unbuildable'}}
"""
FAILING = """
import attrs

@attrs.frozen
class Unbuildable:
    learning_rate: float = 1e-3

    def build(self, parameters):
        raise KeyError("absent")
"""


@pytest.mark.parametrize("option", [[], ["--check"]])
def test_mistakes_of_every_stage_in_one_file_come_out_together(
    models, tmp_path, monkeypatch, capsys, option
):
    failing = f"failing_{tmp_path.name}"
    (tmp_path / f"{failing}.py").write_text(FAILING)
    monkeypatch.syspath_prepend(tmp_path)
    mine = tmp_path / "mine.yaml"
    mine.write_text(FIVE.format(folder=tmp_path, models=models, failing=failing))
    presets = ["presets/sd35_medium.yaml", "presets/sd35_medium/bridge.yaml"]
    assert main([*presets, str(mine), *option]) == 2
    told = capsys.readouterr().err
    wanted = [
        f"{mine}:6: sampling.step: is an unknown key",
        "checkpoints.keep: is",
        "training.averaging: has decay 0.99",
        f"{mine}:3: reward",
        f"{mine}:6: sampling.width: must be a positive multiple of 4, got 18",
        # Only `--check` calls what is not the library's before the model is loaded.
        *([f"{mine}:9: optimizer: the optimizer {failing}:Unbuildable"] if option else []),
    ]
    for piece in wanted:
        assert piece in told, (piece, told)
    assert told.startswith(f"{len(wanted)} problems in the configuration:"), told
    assert not (tmp_path / "run").exists()


def test_what_is_read_and_tried_and_cannot_be_resumed_comes_out_together(yaml, tmp_path, capsys):
    typed = [
        "reward.source=/no/reward",
        "sampling.width=18",
        "tuning={name: lora, targets: [none]}",
    ]
    assert main([yaml, *typed, "--check", "--resume"]) == 2
    told = capsys.readouterr().err
    for piece in ("reward", "sampling.width: must", "tuning", "run.folder: is "):
        assert f"{piece}" in told, told
    assert told.startswith("4 problems"), told


@pytest.fixture
def bright(tmp_path, monkeypatch):
    """The name of a reward of a user's, which reads nothing and is called by `--check`."""
    module = f"bright_{tmp_path.name}"
    (tmp_path / f"{module}.py").write_text(
        "def bright(images, prompts):\n    return images.mean((1, 2, 3))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    return f"{{name: '{module}:bright'}}"


def test_a_mistake_in_a_sum_is_reported_once(yaml, bright, capsys):
    reward = f"reward={{name: weighted, parts: {{a: {{reward: {bright}}}}}}}"
    assert main([yaml, reward, "--check"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("1 problem") and "reward.parts.a: has no `mean` and `std`" in told


@pytest.mark.parametrize("device", ["cuda:99", "meta"])
def test_nothing_is_tried_on_a_device_that_is_not_there(yaml, bright, capsys, device):
    typed = [f"reward={bright}", f"run.device={device}", "method.active=99"]
    assert main([yaml, *typed, "--check"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("2 problems") and "run.device: is" in told and "method.active" in told


def test_nothing_is_tried_on_pictures_of_a_size_that_the_model_cannot_draw(capsys, tmp_path):
    typed = [f"run.folder={tmp_path / 'run'}", "sampling.height=63", "--check"]
    assert main(["container.yaml", *typed]) == 2
    told = capsys.readouterr().err
    assert told.startswith("1 problem") and "sampling.height: must be a positive mult" in told
