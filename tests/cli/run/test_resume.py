"""`--resume`: what a user types, what goes on, and what is refused before a model is loaded."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import diffusers
import pytest
import torch
import transformers
from safetensors.torch import load_file

from flowbp.cli.run.built_run import replaced_providers
from flowbp.cli.run.folder import CONFIGURATION
from flowbp.cli.run.resume import resumption
from flowbp.run import main
from flowbp.settings import identity, load, resolved_values
from flowbp.settings.folder import locked
from flowbp.settings.run_identity import identity_of

from ...tiny_run import write_configuration

# The tiny tokenizer counts letters.
pytestmark = pytest.mark.filterwarnings("ignore::flowbp.adapters.CutPromptWarning")

WEIGHTS = "checkpoints/final/transformer/diffusion_pytorch_model.safetensors"
WEIGHTS_OF_VAE = "vae/diffusion_pytorch_model.safetensors"
SAVING = "checkpoints.every=1"


@pytest.fixture
def run(tmp_path) -> Path:
    return tmp_path / "run"


@pytest.fixture(scope="module")
def original(models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("original")
    assert main([str(write_configuration(folder, models)), SAVING]) == 0
    return folder / "run"


@pytest.fixture
def stopped(original, run):
    """A run of two steps that was killed in its last moment: all is saved, nothing finished."""
    shutil.copytree(original, run)
    (run / "finished.json").unlink()
    return run


@pytest.fixture
def no_models(monkeypatch):
    """Call it, and no model can be loaded any more."""

    def refuse(*_, **__):
        raise AssertionError("a model was loaded")

    def forbid():
        monkeypatch.setattr(diffusers.ModelMixin, "from_pretrained", refuse)
        monkeypatch.setattr(transformers.PreTrainedModel, "from_pretrained", refuse)

    return forbid


def rows(run: Path) -> list[dict[str, object]]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [{**json.loads(line), "seconds": None} for line in lines]


def same_weights(run: Path, other: Path) -> bool:
    one, two = load_file(run / WEIGHTS), load_file(other / WEIGHTS)
    return all(torch.equal(one[name], two[name]) for name in one | two)


def files(run: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_more_steps_continue_a_finished_run(yaml, tmp_path, run, capsys):
    evaluated = ["evaluation.prompts={name: shapes, count: 2}", "checkpoints={every: 2, keep: 1}"]
    assert main([yaml, *evaluated]) == 0
    capsys.readouterr()
    assert main([yaml, *evaluated, "training.steps=5", "--resume"]) == 0
    told = capsys.readouterr()
    assert "resuming after step 2 of 5" in told.out and "evaluating before" not in told.err
    assert "step 3/5" in told.err and "step 2/" not in told.err
    whole = tmp_path / "whole"
    assert main([yaml, *evaluated, "training.steps=5", f"run.folder={whole}"]) == 0
    assert rows(run) == rows(whole) and same_weights(run, whole)
    report = (run / "report.html").read_text()
    assert "steps: 5" in report and "steps: 5" in (run / "configuration.yaml").read_text()


def test_what_is_left_after_training_is_done(yaml, tmp_path, run, capsys):
    evaluated = [yaml, "evaluation.prompts={name: shapes, count: 2}"]
    assert main(evaluated) == 0
    report = (run / "report.html").read_bytes()
    comparison = json.loads((run / "comparison.json").read_text())
    for name in ("finished.json", "report.html", "comparison.json", "metrics.jsonl"):
        (run / name).unlink()
    assert main([*evaluated, "--resume"]) == 0
    assert len(report) > 0 and (run / "report.html").is_file()
    again = json.loads((run / "comparison.json").read_text())
    assert again["summary"] == comparison["summary"]
    assert [row["step"] for row in rows(run)] == [1, 2]


def test_run_without_a_checkpoint_starts_again(yaml, tmp_path, run, capsys):
    assert main([yaml]) == 0
    first = rows(run)
    for name in ("finished.json", "metrics.jsonl"):
        (run / name).unlink()
    shutil.rmtree(run / "checkpoints")
    assert main([yaml, "--resume"]) == 0
    assert "no checkpoint was saved yet, training starts from step 0" in capsys.readouterr().out
    assert rows(run) == first


IMPATIENT = """
import os, signal

class Impatient:
    def __init__(self, folder, steps):
        self.steps = steps
    def row(self, metrics):
        if metrics.step == 2:
            os.kill(os.getpid(), signal.SIGINT)
    def pictures(self, step, images, prompts):
        pass
    def close(self):
        pass
"""


def test_interrupted_run_is_resumed_without_the_observer(yaml, tmp_path, run, capsys, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (tmp_path / "impatient.py").write_text(IMPATIENT)
    monkeypatch.syspath_prepend(tmp_path)
    typed = [yaml, "training.steps=4", "samples={every: 1, count: 2}", "observers.tensorboard=true"]
    assert main([*typed, "observers.others=[{name: 'impatient:Impatient'}]"]) == 130
    assert "the same command with --resume continues" in capsys.readouterr().err
    assert (run / "checkpoints/interrupted-000002/model_index.json").is_file()
    assert main([*typed, "--resume"]) == 0
    whole = tmp_path / "whole"
    assert main([*typed, f"run.folder={whole}"]) == 0
    assert rows(run) == rows(whole) and same_weights(run, whole)
    assert {p.name: p.read_bytes() for p in (run / "samples").iterdir()} == {
        p.name: p.read_bytes() for p in (whole / "samples").iterdir()
    }
    events = EventAccumulator(str(run / "tensorboard"), {"images": 0}).Reload()
    scalars = events.Scalars("train/reward")
    assert [event.step for event in scalars] == [1, 2, 3, 4]
    assert [event.value for event in scalars] == pytest.approx([r["reward"] for r in rows(run)])
    assert [event.step for event in events.Images("samples")] == [0, 1, 2, 3, 4]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_anchored_run_goes_on_towards_the_model_before_training(yaml, tmp_path, run, capsys):
    typed = [yaml, SAVING, "anchor.strength=0.1", "training.averaging={decay: 0.5}"]
    assert main(typed) == 0
    assert main([*typed, "training.steps=4", "--resume"]) == 0
    whole = tmp_path / "whole"
    assert main([*typed, "training.steps=4", f"run.folder={whole}"]) == 0
    assert rows(run) == rows(whole) and same_weights(run, whole)
    values = [row["anchor"] for row in rows(run)]
    assert values[0] == 0 and values == sorted(values) and len(set(values)) == 4


CHANGED = {
    "the anchor": (["anchor.strength=0.1"], ["anchor.strength: was nothing", "is now 0.1"]),
    "one key": (["run.seed=1"], ["command line: run.seed: was 0", "is now 1; give the former"]),
    "two keys": (
        ["optimizer.learning_rate=0.5", "method.alpha=0.1"],
        ["2 problems", "optimizer.learning_rate: was 0.001", "now 0.5", "method.alpha: was 0.5"],
    ),
    "another method": (
        ["method={name: sparse, active: 3}"],
        ['method.name: was "bridge"', 'now "sparse"', "method.alpha: was 0.5", "now nothing"],
    ),
    "fewer steps": (["training.steps=1"], ["training.steps: was 2", "it can only be raised"]),
}


@pytest.mark.parametrize("typed, pieces", CHANGED.values(), ids=CHANGED)
def test_changed_configuration_is_refused(yaml, stopped, capsys, no_models, typed, pieces):
    no_models()
    before = files(stopped)
    for option in ([], ["--check"]):
        assert main([yaml, SAVING, *typed, "--resume", *option]) == 2
        told = capsys.readouterr().err
        assert all(piece in told for piece in pieces), told
        assert "Traceback" not in told and files(stopped).keys() == before.keys()


def test_steps_cannot_be_raised_under_a_decay(yaml, run, capsys, no_models):
    assert main([yaml, "schedule={name: linear}"]) == 0
    no_models()
    typed = [yaml, "schedule={name: linear}", "training.steps=3", "--resume"]
    assert main(typed) == 2
    assert "the 2 steps that are done would have had other learning" in capsys.readouterr().err


def test_keys_that_only_round_are_told(yaml, stopped, capsys):
    rounding = ["run.threads=2", "batching.pull=1", "embeddings.batch=4"]
    assert main([yaml, SAVING, *rounding, "--resume", "--check"]) == 0
    told = capsys.readouterr().out
    assert "run.threads changed from 1 to 2: from here on, metrics agree" in told
    assert 'batching.pull changed from "auto" to 1' in told
    assert "embeddings.batch changed from 1 to 4" in told
    assert f"resuming after step 2 of 2, from {stopped / 'checkpoints' / 'final'}" in told


def test_free_keys_and_another_place_change_nothing(yaml, stopped, tmp_path, capsys):
    moved = tmp_path / "moved"
    stopped.rename(moved)
    free = ["samples={every: 1, count: 2}", "checkpoints.every=2", "observers.json_lines=false"]
    assert main([yaml, f"run.folder={moved}", *free, "training.steps=3", "--resume"]) == 0
    assert "rounding" not in capsys.readouterr().out
    assert (moved / "checkpoints/final").is_dir()


def test_a_run_begun_without_a_key_goes_on(yaml, stopped, capsys):
    """As one that was begun before these keys came to be."""
    configuration = stopped / CONFIGURATION
    lines = configuration.read_text().splitlines(keepends=True)
    added = ("global: null", "velocity_every: 1")
    lacking = [line for line in lines if line.strip() not in added]
    assert len(lacking) == len(lines) - 2
    configuration.write_text("".join(lacking))
    assert main([yaml, SAVING, "training.steps=3", "--resume"]) == 0
    assert main([yaml, SAVING, "batching={samples: 2, global: 8}", "--resume", "--check"]) == 2
    assert "batching.global: was null when the run began" in capsys.readouterr().err
    assert main([yaml, SAVING, "sampling.velocity_every=2", "--resume", "--check"]) == 2
    assert "sampling.velocity_every: was 1 when the run began" in capsys.readouterr().err


def test_the_identity_of_a_run_is_that_without_added_keys(yaml):
    settings = load([yaml]).settings
    resolved = resolved_values(settings)
    assert resolved["batching"].pop("global", "missing") is None
    assert resolved["sampling"].pop("velocity_every") == 1
    assert identity_of(resolved, settings.run.folder) == identity(settings)


@pytest.mark.parametrize("cache", ["null", "elsewhere", "as it was"])
def test_a_resumed_run_may_keep_its_embeddings_elsewhere(yaml, tmp_path, run, capsys, cache):
    evaluated = [yaml, "evaluation.prompts={name: shapes, count: 2}", "sampling.guidance=2"]
    assert main(evaluated) == 0
    typed = {"as it was": [], "null": ["embeddings.folder=null"]}
    typed["elsewhere"] = [f"embeddings.folder={tmp_path / 'elsewhere'}"]
    assert main([*evaluated, *typed[cache], "training.steps=4", "--resume"]) == 0
    assert "rounding" not in capsys.readouterr().out
    whole = tmp_path / "whole"
    assert main([*evaluated, "training.steps=4", f"run.folder={whole}"]) == 0
    assert rows(run) == rows(whole) and same_weights(run, whole)


def test_a_run_whose_prompts_recur_is_resumed_exactly(yaml, tmp_path, run, capsys):
    listed = ["a red box", "two rays", "a red box", "a grey ray above a box", "one box"]
    (tmp_path / "prompts.txt").write_text("\n".join(listed))
    typed = [yaml, f"prompts={{name: text, path: {tmp_path / 'prompts.txt'}}}", SAVING]
    typed += ["batching.samples=3", "embeddings.folder=null", "sampling.guidance=2"]
    whole = tmp_path / "whole"
    assert main([*typed, "training.steps=5", f"run.folder={whole}"]) == 0
    for steps in (1, 3, 5):
        goes_on = [] if steps == 1 else ["--resume"]
        assert main([*typed, f"training.steps={steps}", *goes_on]) == 0
    assert rows(run) == rows(whole) and same_weights(run, whole)


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif how == "a bit":
        place = len(content) // 2
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    else:
        path.unlink()


DAMAGES = ["truncated", "missing", "a bit"]


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("name", ["training/tensors.safetensors", "manifest.json", WEIGHTS_OF_VAE])
def test_damaged_checkpoint_is_refused(yaml, stopped, capsys, no_models, name, how):
    no_models()
    final = stopped / "checkpoints/final"
    damage(final / name, how)
    assert main([yaml, SAVING, "--resume"]) == 2
    told = capsys.readouterr().err
    assert str(final) in told and name in told and "Traceback" not in told
    assert "continues from the newest intact one, step-000001" in told


def test_after_a_damaged_checkpoint_is_moved_the_older_is_used(yaml, stopped, tmp_path, capsys):
    first = rows(stopped)
    weights = load_file(stopped / WEIGHTS)
    shutil.rmtree(stopped / "checkpoints/final")
    assert main([yaml, SAVING, "--resume"]) == 0
    assert "resuming after step 1 of 2" in capsys.readouterr().out
    assert rows(stopped) == first
    again = load_file(stopped / WEIGHTS)
    assert all(torch.equal(weights[name], again[name]) for name in weights)


def test_foreign_checkpoint_is_refused(yaml, stopped, tmp_path, capsys, no_models):
    assert main([yaml, "run.seed=9", "training.steps=3", f"run.folder={tmp_path / 'b'}"]) == 0
    no_models()
    foreign = stopped / "checkpoints/step-000003"
    shutil.copytree(tmp_path / "b/checkpoints/final", foreign)
    assert main([yaml, SAVING, "training.steps=4", "--resume"]) == 2
    told = capsys.readouterr().err
    assert f"the checkpoint {foreign} cannot be resumed: it was saved by a run of another" in told
    assert "move it away, and the run continues from the newest intact one, final" in told


def test_nothing_to_resume_is_refused(yaml, run, capsys, no_models):
    no_models()
    assert main([yaml, "--resume"]) == 2
    told = capsys.readouterr().err
    assert f"run.folder: is {run}, which does not exist" in told and "leave --resume out" in told
    run.mkdir()
    assert main([yaml, "--resume"]) == 2
    assert "which has no configuration.yaml" in capsys.readouterr().err


def test_finished_run_is_refused(yaml, run, capsys, no_models):
    assert main([yaml]) == 0
    no_models()
    assert main([yaml, "--resume"]) == 2
    told = capsys.readouterr().err
    assert "whose run is finished: all 2 steps are done" in told
    assert "raise training.steps above 2" in told


def test_folder_in_use_is_refused(yaml, stopped, capsys, no_models):
    no_models()
    with locked(stopped):
        assert main([yaml, SAVING, "--resume"]) == 2
    told = capsys.readouterr().err
    assert f"the folder {stopped} is in use by process" in told and "wait for its end" in told


def test_new_run_does_not_enter_a_folder_in_use(yaml, run, capsys):
    run.mkdir()
    with locked(run):
        assert main([yaml]) == 1
    assert f"the folder {run} is in use by process" in capsys.readouterr().err
    assert main([yaml]) == 0


@pytest.fixture(scope="module")
def evaluated(models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluated")
    typed = ["evaluation.prompts={name: shapes, count: 2}"]
    assert main([str(write_configuration(folder, models)), *typed]) == 0
    (folder / "run/finished.json").unlink()
    return folder / "run"


@pytest.mark.parametrize("how", ["truncated", "a bit"])
@pytest.mark.parametrize("name", ["before.json", "before.safetensors"])
def test_damaged_evaluation_is_reported(yaml, evaluated, run, capsys, name, how):
    shutil.copytree(evaluated, run)
    damage(run / name, how)
    assert main([yaml, "evaluation.prompts={name: shapes, count: 2}", "--resume"]) == 1
    told = capsys.readouterr().err
    assert f"{run / name} is damaged" in told
    assert "remove before.json and before.safetensors" in told and "Traceback" not in told


@pytest.mark.parametrize("name", ["configuration.yaml", "finished.json"])
def test_damaged_records_of_the_run_are_told(yaml, stopped, capsys, no_models, name):
    no_models()
    for content in (b"{", b'{"steps": 1e999, "ended_early": false', b"steps: \xff"):
        (stopped / name).write_bytes(content)
        assert main([yaml, SAVING, "--resume"]) == 2
        told = capsys.readouterr().err
        assert name in told and "Traceback" not in told


def test_a_checkpoint_of_another_step_is_not_taken_for_this_one(yaml, stopped, capsys, no_models):
    no_models()
    final, first = stopped / "checkpoints/final", stopped / "checkpoints/step-000001"
    other = "training/tensors.safetensors"
    shutil.copyfile(first / other, final / other)
    assert main([yaml, SAVING, "--resume"]) == 2
    assert f"its file {other} is not what was saved" in capsys.readouterr().err.replace(
        "the content of ", ""
    )
    shutil.rmtree(final)
    first.rename(first.with_name("step-000002"))
    assert main([yaml, SAVING, "--resume"]) == 2
    assert "it was saved after step 1, which is not what it is named" in capsys.readouterr().err


def test_a_file_too_many_is_refused(yaml, stopped, capsys, no_models):
    no_models()
    extra = stopped / "checkpoints/final/transformer/diffusion_pytorch_model.bin"
    extra.write_bytes(b"other weights")
    assert main([yaml, SAVING, "--resume"]) == 2
    told = capsys.readouterr().err
    assert "transformer/diffusion_pytorch_model.bin was not there when it was saved" in told


def test_other_parts_from_python_are_refused(yaml, stopped):
    from dependency_injector import providers

    from flowbp.config import ConfigurationError
    from flowbp.settings import RunContainer, load

    container = RunContainer(settings=load([yaml, SAVING], resume=True).settings)
    settings, checkpoints = container.settings(), container.checkpoints()
    assert resumption(settings, checkpoints, replaced_providers(container)).step == 2
    container.reward.override(providers.Object("mine"))
    with pytest.raises(ConfigurationError, match="other parts replaced from Python"):
        resumption(settings, checkpoints, replaced_providers(container))


def test_occupied_folder_offers_to_resume(yaml, stopped, capsys):
    assert main([yaml]) == 2
    assert "add --resume to continue the run that is there" in capsys.readouterr().err


def test_a_finished_run_is_not_offered_to_resume(yaml, original, run, capsys):
    shutil.copytree(original, run)
    assert main([yaml, "--check"]) == 2
    told = capsys.readouterr().err
    assert "is finished, and --resume only adds to training.steps" in told


@pytest.fixture
def base(models, tmp_path):
    """A copy of the model that runs begin with, to be moved."""
    return Path(shutil.copytree(models / "base", tmp_path / "base"))


@pytest.mark.parametrize("tuning", ["{name: full}", "{name: lora, rank: 2}"])
def test_a_model_that_was_moved_is_known_by_its_files(yaml, base, tmp_path, run, capsys, tuning):
    typed = [yaml, SAVING, f"tuning={tuning}"]
    assert main([*typed, f"backbone.source={base}"]) == 0
    elsewhere = tmp_path / "elsewhere" / "model"
    shutil.copytree(base, elsewhere)
    shutil.rmtree(base)
    more = [*typed, f"backbone.source={elsewhere}", "training.steps=4"]
    assert main([*more, "--resume", "--check"]) == 0
    assert main([*more, "--resume"]) == 0
    told = capsys.readouterr().out
    assert "backbone.source has moved" in told and "resuming after step 2 of 4" in told
    whole = tmp_path / "whole"
    assert main([*more, f"run.folder={whole}"]) == 0
    assert rows(run) == rows(whole)
    # And once more, from where it is now.
    assert main([*more[:-1], "training.steps=5", "--resume"]) == 0


@pytest.mark.parametrize("moved", [False, True])
def test_another_model_in_its_place_is_refused(yaml, base, tmp_path, run, capsys, no_models, moved):
    typed = [yaml, SAVING]
    assert main([*typed, f"backbone.source={base}"]) == 0
    no_models()
    place = tmp_path / "other" if moved else base
    if moved:
        shutil.copytree(base, place)
    damage(place / "vae/config.json", "a bit")
    more = [*typed, f"backbone.source={place}", "training.steps=4", "--resume"]
    assert main(more) == 2
    told = capsys.readouterr().err
    assert "backbone.source" in told and "vae/config.json is not what the run began with" in told


@pytest.mark.parametrize("how", DAMAGES)
def test_damage_of_what_the_run_is_made_of_is_reported(yaml, stopped, capsys, no_models, how):
    no_models()
    damage(stopped / "sources.json", how)
    assert main([yaml, SAVING, "--resume"]) == 2
    told = capsys.readouterr().err
    assert "sources.json" in told and "restore it from a copy" in told and "Traceback" not in told


def test_a_run_killed_as_it_began_is_resumed_twice(yaml, run):
    assert main([yaml, SAVING]) == 0
    begun = (run / "configuration.yaml").read_text()
    shutil.rmtree(run)
    run.mkdir()
    (run / "configuration.yaml").write_text(begun)
    assert main([yaml, SAVING, "--resume"]) == 0
    assert main([yaml, SAVING, "training.steps=3", "--resume"]) == 0
