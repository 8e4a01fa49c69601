"""A composed reward from its YAML to metrics, comparison and report, and through --resume."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from flowbp.evaluation import from_json
from flowbp.run import main
from flowbp.settings import load, resolved, weighted_reward

# The tiny tokenizer counts letters.
pytestmark = pytest.mark.filterwarnings("ignore::flowbp.adapters.CutPromptWarning")

MODULE = """
import torch

def sharpness(images, prompts):
    return images.diff(dim=3).abs().mean((1, 2, 3))

def constant(images, prompts):
    return 0 * images.mean((1, 2, 3)) + 0.25

def broken(images, prompts):
    return images.mean((1, 2, 3)) * float("nan")

def failing(images, prompts):
    raise ValueError("no such thing as a picture")

def made(scale=1.0):
    return lambda images, prompts: scale * images.mean((1, 2, 3))

def unmade():
    raise OSError("the weights are gone")
"""


@pytest.fixture
def parts(tmp_path, monkeypatch, models):
    """The override that composes CLIP with functions of a third party's module."""
    name = f"third_party_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)

    def override(second: str, calibration: str = "{prompts: 5}") -> str:
        first = f"{{reward: {{name: clip, source: {models}/reward}}}}"
        second = second.replace("@", f"{name}:")
        return (
            f"reward={{name: weighted, parts: {{likeness: {first}, own: {second}}}, "
            f"calibration: {calibration}}}"
        )

    return override


SHARP = "{reward: {name: '@sharpness'}, weight: 0.5}"
EVALUATED = "evaluation.prompts={name: shapes, count: 2}"
NAMES = ["likeness.raw", "likeness.normalised", "own.raw", "own.normalised"]


def test_parts_reach_every_artefact(yaml, tmp_path, parts, capsys):
    assert main([yaml, parts(SHARP), EVALUATED, "observers.tensorboard=true"]) == 0
    run, told = tmp_path / "run", capsys.readouterr()
    scales = json.loads((run / "calibration.json").read_text())["parts"]
    assert list(scales) == ["likeness", "own"] and scales["own"]["std"] > 0
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        assert [key for key in row if key.startswith("parts.")] == [f"parts.{n}" for n in NAMES]
        normalised = row["parts.likeness.normalised"] + 0.5 * row["parts.own.normalised"]
        assert row["reward"] == pytest.approx(normalised, rel=1e-4, abs=1e-5)
    comparison = from_json((run / "comparison.json").read_text())
    assert comparison.before.parts == tuple(NAMES)
    for row in (*comparison.before.rows, *comparison.after.rows):
        scale = scales["own"]
        normalised = (row.values["own.raw"] - scale["mean"]) / scale["std"]
        assert row.values["own.normalised"] == pytest.approx(normalised, rel=1e-3, abs=1e-4)
    page = (run / "report.html").read_text()
    assert ">own.normalised<" in page and "Part own.normalised" in page
    for words in ("the reward's scales, measured on 5 pictures", "  own       weight 0.5, mean "):
        assert words in told.out
    for words in ("own.raw", "calibration.json", "calibrate "):
        assert words in told.out
    assert "calibrating the reward: 5 prompts" in told.err
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    assert {f"train/parts.{name}" for name in NAMES} <= set(events.Tags()["scalars"])


def test_resume_reads_the_scales_back(yaml, tmp_path, parts, capsys):
    typed, run = [yaml, parts(SHARP), "checkpoints.every=1"], tmp_path / "run"
    assert main([*typed, "training.steps=3", f"run.folder={tmp_path / 'whole'}"]) == 0
    assert main([*typed, "training.steps=1"]) == 0
    before = (run / "calibration.json").read_bytes()
    capsys.readouterr()
    assert main([*typed, "training.steps=3", "--resume"]) == 0
    told = capsys.readouterr()
    assert f"the reward's scales, from {run / 'calibration.json'}" in told.out
    assert "calibrating" not in told.err
    assert (run / "calibration.json").read_bytes() == before
    rows = [
        [
            {**json.loads(line), "seconds": None}
            for line in (folder / "metrics.jsonl").read_text().splitlines()
        ]
        for folder in (run, tmp_path / "whole")
    ]
    assert rows[0] == rows[1]


@pytest.mark.parametrize("damage", ["gone", "damaged", "of other parts"])
def test_a_run_does_not_go_on_without_its_scales(yaml, tmp_path, parts, capsys, damage):
    typed, path = [yaml, parts(SHARP), "checkpoints.every=1"], tmp_path / "run/calibration.json"
    assert main([*typed, "training.steps=1"]) == 0
    if damage == "gone":
        path.unlink()
    else:
        path.write_text("{" if damage == "damaged" else '{"format": 1, "parts": {}}')
    assert main([*typed, "training.steps=2", "--resume"]) == 1
    told = capsys.readouterr().err
    assert str(path) in told and "restore it from a copy" in told and "Traceback" not in told


def test_a_run_that_was_killed_before_its_scales_measures_them(yaml, tmp_path, parts, capsys):
    typed = [yaml, parts(SHARP)]
    assert main(typed) == 0
    run = tmp_path / "run"
    scales = (run / "calibration.json").read_bytes()
    for name in ("calibration.json", "finished.json", "metrics.jsonl"):
        (run / name).unlink()
    shutil.rmtree(run / "checkpoints")
    assert main([*typed, "--resume"]) == 0
    assert (run / "calibration.json").read_bytes() == scales


def test_given_scales_are_told_and_nothing_is_measured(yaml, tmp_path, models, capsys):
    part = f"{{reward: {{name: clip, source: {models}/reward}}, mean: 0.25, std: 0.5}}"
    assert main([yaml, f"reward={{name: weighted, parts: {{likeness: {part}}}}}"]) == 0
    told = capsys.readouterr().out
    assert "scales, as given\n  likeness  weight 1, mean 0.25, standard deviation 0.5" in told
    assert not (tmp_path / "run" / "calibration.json").exists()


def test_resolved_settings_say_the_same(yaml, tmp_path, parts):
    settings = load([yaml, parts(SHARP)]).settings
    again = tmp_path / "again.yaml"
    again.write_text(resolved(settings))
    assert load([str(again)]).settings == settings
    assert "mean: null" in again.read_text()


@pytest.mark.parametrize(
    ("second", "calibration", "message"),
    [
        (SHARP, "null", "reward.parts.own: has no `mean` and `std`, and there is no `calibration`"),
        ("{reward: {name: '@sharpness'}, weight: 0}", "{}", "reward.parts.own.weight: must be a "),
        ("{reward: {name: '@sharpness'}, mean: 1}", "{}", "reward.parts.own.std: is null, and the"),
        ("{reward: {name: '@sharpness'}, mean: 1, std: 0}", "{}", "own.std: must be a positive"),
        (SHARP, "{prompts: 1}", "reward.calibration.prompts: must be an integer >= 2, got 1"),
        ("{reward: {name: '@nothing'}}", "{}", "reward.parts.own.reward.name: "),
        ("{reward: {name: '@sharpness', x: 1}}", "{}", "itself and takes no keys; remove `x`"),
        ("{reward: {name: '@made', size: 1}}", "{}", "reward.parts.own.reward.size: is an unknown"),
        ("{name: '@sharpness'}", "{}", "reward.parts.own.reward: is missing"),
    ],
)
def test_mistakes_are_found_before_anything_is_built(
    yaml, tmp_path, parts, capsys, second, calibration, message
):
    assert main([yaml, parts(second, calibration), "--check"]) == 2
    assert message in capsys.readouterr().err


def test_calibration_that_would_measure_nothing_is_refused(yaml, models, capsys):
    part = f"{{reward: {{name: clip, source: {models}/reward}}, mean: 0.25, std: 0.5}}"
    typed = f"reward={{name: weighted, parts: {{a: {part}}}, calibration: {{}}}}"
    assert main([yaml, typed, "--check"]) == 2
    assert "reward.calibration: would measure nothing" in capsys.readouterr().err


def test_labels_are_checked(yaml, models, capsys):
    part = f"{{reward: {{name: clip, source: {models}/reward}}, mean: 0.25, std: 0.5}}"
    assert main([yaml, f"reward={{name: weighted, parts: {{a b: {part}}}}}", "--check"]) == 2
    assert "reward.parts: must have labels of letters" in capsys.readouterr().err
    assert main([yaml, "reward={name: weighted, parts: {}}", "--check"]) == 2
    assert "reward.parts: must hold at least one part" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("second", "code", "messages"),
    [
        (
            "{reward: {name: '@constant'}}",
            1,
            ["the calibration of the reward stopped: `own`", "same score, got 0.25"],
        ),
        (
            "{reward: {name: '@broken'}}",
            1,
            ["the reward's part `own` (", ":broken)", "got [nan, nan]", "at the prompts '"],
        ),
        (
            "{reward: {name: '@broken'}, mean: 0, std: 1}",
            1,
            ["must return finite scores, got [nan, nan]", "at the prompts '"],
        ),
        (
            "{reward: {name: '@failing'}}",
            1,
            ["`own` (", ":failing) raised ValueError: no such thing as a picture", "in failing"],
        ),
        (
            "{reward: {name: '@unmade'}}",
            2,
            [":unmade raised OSError: the weights are gone", "part `own` was built", "in unmade"],
        ),
    ],
)
def test_the_part_at_fault_is_named(yaml, parts, capsys, second, code, messages):
    assert main([yaml, parts(second)]) == code
    told = capsys.readouterr().err
    for message in messages:
        assert message in told
    assert "Traceback" not in told


def test_an_evaluation_names_the_part_at_fault(yaml, parts, capsys, monkeypatch):
    monkeypatch.setattr("flowbp.cli.run.execution.try_scorers", lambda *scorers, **made_up: None)
    second = "{reward: {name: '@broken'}, mean: 0, std: 1}"
    assert main([yaml, parts(second), EVALUATED]) == 1
    told = capsys.readouterr().err
    assert "must return finite scores as its part `own.raw`, got nan" in told
    assert "during the evaluation before training, at the prompt '" in told


def test_a_function_of_pictures_and_prompts_is_a_reward_by_itself(yaml, tmp_path, parts):
    name = f"third_party_{tmp_path.name}:sharpness"
    loaded = load([yaml, f"reward={{name: '{name}'}}"])
    component = loaded.settings.reward
    assert component.ready and component.build(device="cpu") is component.target
    images = torch.rand(2, 3, 4, 4)
    assert component.build()(images, ["a", "b"]).shape == (2,)
    assert f"name: {name}" in resolved(loaded.settings)
    assert main([yaml, f"reward={{name: '{name}'}}"]) == 0


def test_functions_refuse_what_the_configuration_check_refuses():
    with pytest.raises(ValueError, match="`parts` must hold at least one part"):
        weighted_reward(parts={})


def test_an_entry_point_names_a_reward(yaml, tmp_path, monkeypatch):
    (tmp_path / "my_reward_plugin.py").write_text(MODULE)
    folder = tmp_path / "my_rewards-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: my-rewards\nVersion: 1.0\n")
    points = "[flowbp.rewards]\nsharp = my_reward_plugin:sharpness\n"
    (folder / "entry_points.txt").write_text(points)
    monkeypatch.syspath_prepend(tmp_path)
    part = "{reward: {name: sharp}, mean: 0, std: 0.5}"
    settings = load([yaml, f"reward={{name: weighted, parts: {{own: {part}}}}}"]).settings
    images = torch.rand(2, 3, 4, 4)
    raw = images.diff(dim=3).abs().mean((1, 2, 3))
    assert torch.allclose(settings.reward.build(device="cpu")(images, ["a", "b"]), 2 * raw)
