"""Evaluations inside a run and early stop, from the YAML to the files."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from flowbp.evaluation import write_report
from flowbp.run import main
from flowbp.settings import load

# The tiny tokenizer counts letters.
pytestmark = pytest.mark.filterwarnings("ignore::flowbp.adapters.CutPromptWarning")

WEIGHTS = "checkpoints/final/transformer/diffusion_pytorch_model.safetensors"
HELD_OUT = ["evaluation.prompts={name: shapes, count: 6}", "training.steps=8"]
RULE = "early_stop={metric: flat, every: 2, patience: 2}"
FALLING = """
import torch

def constant(images, prompts):
    return torch.full((len(images),), 0.25)

class Peak:
    # Highest at its third call: after the try before the run and the evaluation of step 0.

    def __init__(self):
        self.calls = 0

    def __call__(self, images, prompts):
        self.calls += 1
        return torch.full((len(images),), {3: 0.9}.get(self.calls, 0.1))
"""
ENDING = [
    *HELD_OUT,
    "evaluation.count=3",
    "evaluation.metrics.flat={name: reward, reward: {name: 'held:constant'}}",
    RULE,
]
LESS = [each for each in ENDING if each != RULE]


@pytest.fixture
def held(tmp_path, monkeypatch):
    (tmp_path / "held.py").write_text(FALLING)
    monkeypatch.syspath_prepend(tmp_path)


def lines(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "evaluations.jsonl").read_text().splitlines()]


def same_weights(run: Path, other: Path) -> bool:
    one, two = load_file(run / WEIGHTS), load_file(other / WEIGHTS)
    return all(torch.equal(one[name], two[name]) for name in one | two)


def test_evaluations_without_a_stop(yaml, tmp_path, capsys):
    run, plain = tmp_path / "run", tmp_path / "plain"
    typed = [yaml, *HELD_OUT, "judge.name=shapes", "sampling.height=64", "sampling.width=64"]
    assert main([*typed, "evaluation.every=3"]) == 0
    told = capsys.readouterr()
    assert (
        "every 3 steps on all of them" in " ".join(told.out.split())
        and "evaluations.jsonl" in told.out
    )
    assert [line["step"] for line in lines(run)] == [0, 3, 6, 8]
    assert list(lines(run)[0]) == ["step", "reward", "accuracy"]
    # All of the prompts from the same noise: the first and last are those of the report.
    comparison = json.loads((run / "comparison.json").read_text())["summary"]["overall"]["reward"]
    assert lines(run)[0]["reward"] == pytest.approx(comparison["before"])
    assert lines(run)[-1]["reward"] == pytest.approx(comparison["after"])
    assert main([*typed, f"run.folder={plain}"]) == 0
    assert same_weights(run, plain) and not (plain / "evaluations.jsonl").exists()


def test_distances_are_from_step_0_also_where_a_run_goes_on(yaml, tmp_path):
    run, whole = tmp_path / "run", tmp_path / "whole"
    models = load([yaml]).settings.reward.arguments["source"]
    embedding = f"embedding: {{name: clip, source: {models}}}"
    far, pixels = f"{{name: distance, {embedding}}}", "{name: pixel_distance}"
    wanted = f"evaluation.metrics={{pixels: {pixels}, far: {far}}}"
    typed = [HELD_OUT[0], "evaluation.every=2", wanted]
    assert main([yaml, *typed, "training.steps=8", f"run.folder={whole}"]) == 0
    assert main([yaml, *typed, "training.steps=4"]) == 0
    assert main([yaml, *typed, "training.steps=8", "--resume"]) == 0
    assert lines(run) == lines(whole) and same_weights(run, whole)
    # The card has those metrics too, and does not depend on where the run went on.
    one, two = ((each / "checkpoints/final/README.md").read_text() for each in (run, whole))
    assert one == two
    assert all(re.search(rf"\| `{name}` \| 0\.0+ \| 0\.\d+ \| ", one) for name in ("pixels", "far"))
    for name in ("pixels", "far"):
        first, *others = [line[name] for line in lines(run)]
        assert first == 0 and min(others) > 0


def test_a_run_ends_early_and_says_so(yaml, tmp_path, held, capsys):
    run = tmp_path / "run"
    assert main([yaml, *ENDING]) == 0
    printed = capsys.readouterr()
    assert "best flat 0.2500 after step 0, 2 of 2 without a rise" in printed.err
    told = " ".join(printed.out.split())
    assert "every 2 steps on 3 of them, also by flat" in told
    assert "ends after 2 evaluations without a rise of flat" in told
    assert "ended early, after step 4 of 8: flat has not risen by more than 0 for 2 eval" in told
    assert "the best, 0.2500, is that of step 0, the model before training" in told
    assert [line["step"] for line in lines(run)] == [0, 2, 4]
    finished = json.loads((run / "finished.json").read_text())
    assert finished["steps"] == 4 and finished["ended_early"] is True
    assert "4 optimizer steps" in (run / "report.html").read_text()


@pytest.mark.parametrize("averaging", ["null", "{decay: 0.5, warmup: false}"])
def test_the_results_are_of_the_best_model(yaml, tmp_path, held, capsys, monkeypatch, averaging):
    reports = []

    def keep(path, report):
        reports.append(report)
        write_report(path, report)

    monkeypatch.setattr("flowbp.cli.run.results.write_report", keep)
    run, short = tmp_path / "run", tmp_path / "short"
    metric = "evaluation.metrics.peak={name: reward, reward: {name: 'held:Peak'}}"
    typed = [yaml, HELD_OUT[0], f"training.averaging={averaging}"]
    rule = "early_stop={metric: peak, every: 2, patience: 2}"
    assert main([*typed, "training.steps=8", metric, rule]) == 0
    note = (
        "The results are of the best model, that of step 2. It was chosen by the held-out "
        "prompts that score it here, so these numbers are optimistic. The run ended early, after "
        "step 6 "
    )
    assert note in " ".join(capsys.readouterr().out.split())
    page = " ".join((run / "report.html").read_text().split())
    assert [row["step"] for row in reports[0].held_out] == [0, 2]
    assert "2 optimizer steps" in page and note in page
    assert json.loads((run / "finished.json").read_text())["steps"] == 6

    def after(folder):
        tree = json.loads((folder / "comparison.json").read_text())
        return [record["reward"] for record in tree["after"]["records"]]

    assert main([*typed, f"run.folder={short}", "training.steps=2"]) == 0
    assert after(run) == after(short)
    # The last model is kept as it was.
    cards = {
        name: (run / f"checkpoints/{name}/README.md").read_text()
        for name in ("best-000002", "final")
    }
    assert "so these numbers are optimistic" in cards["best-000002"]
    assert "| `peak` |" in cards["best-000002"] and "None measured" in cards["final"]
    best = run / WEIGHTS.replace("final", "best-000002")
    assert not same_weights(run, short) and best.is_file()


def test_a_finished_run_goes_on_only_with_another_rule(yaml, tmp_path, held, capsys):
    run, whole = tmp_path / "run", tmp_path / "whole"
    assert main([yaml, *ENDING]) == 0
    longer = ["training.steps=20" if "steps" in each else each for each in ENDING]
    for typed in (ENDING, longer):
        assert main([yaml, *typed, "--resume"]) == 2
        assert "a held-out metric ended it after step 4; raise" in capsys.readouterr().err
    patient = [*LESS, RULE.replace("patience: 2", "patience: 3")]
    assert main([yaml, *patient, "--resume"]) == 0
    assert main([yaml, *patient, f"run.folder={whole}"]) == 0
    assert lines(run) == lines(whole) and lines(run)[-1]["step"] == 6
    assert same_weights(run, whole)
    assert main([yaml, *LESS, "early_stop=null", "evaluation.every=2", "--resume"]) == 0
    assert lines(run)[-1]["step"] == 8


RISING = """
import torch

calls = []

def peaking(images, prompts):
    calls.append(1)
    return torch.full((len(images),), {2: 0.25, 3: 0.5}.get(len(calls), 0.0))
"""


@pytest.mark.parametrize("patience", [2, 3], ids=["ended early", "all steps"])
def test_the_best_is_told_where_it_is_not_the_last(yaml, tmp_path, monkeypatch, capsys, patience):
    (tmp_path / f"rising{patience}.py").write_text(RISING)
    monkeypatch.syspath_prepend(tmp_path)
    typed = [
        *HELD_OUT,
        f"evaluation.metrics.held={{name: reward, reward: {{name: 'rising{patience}:peaking'}}}}",
        f"early_stop={{metric: held, every: 2, patience: {patience}}}",
    ]
    assert main([yaml, *typed]) == 0
    told = capsys.readouterr().out
    assert ("ended early" in told) is (patience == 2)
    best = tmp_path / "run/checkpoints/best-000002"
    assert best.is_dir()
    written, python = told.split("written to")[1].split("the best, in Python")
    assert "checkpoints/best-000002" in written
    assert "the model at its best held, 0.5000 after step 2" in written
    assert "the trained model after the last step" in written
    first, last = python.split("the last, in Python")
    assert str(best) in first and str(best.parent / "final") in last


def test_the_best_checkpoint_is_named(yaml, tmp_path, held, capsys):
    typed = [*HELD_OUT, "early_stop={metric: reward, every: 1, patience: 6}"]
    assert main([yaml, *typed]) == 0
    rewards = [line["reward"] for line in lines(tmp_path / "run")]
    best = rewards.index(max(rewards))
    names = {path.name for path in (tmp_path / "run/checkpoints").iterdir()}
    last = len(rewards) - 1
    assert names == ({"final"} if best in (0, last) else {"final", f"best-{best:06}"})


MISTAKES = {
    "nothing held out": (
        ["early_stop={metric: reward, every: 1}"],
        "early_stop: watches 'reward', but without an `evaluation` nothing is measured",
    ),
    "no judge": (
        [*HELD_OUT, "early_stop={metric: accuracy, every: 1}"],
        "early_stop.metric: is 'accuracy', and the evaluation has reward; name one of these",
    ),
    "no spacing": (
        [*HELD_OUT, "early_stop={metric: reward}"],
        "early_stop.every: is null, and so is evaluation.every; give one of them",
    ),
    "two spacings": (
        [*HELD_OUT, "evaluation.every=1", "early_stop={metric: reward, every: 2}"],
        "early_stop.every: is 2, and evaluation.every is 1; give one of them, or both alike",
    ),
    "too late": (
        [*HELD_OUT, "early_stop={metric: reward, every: 4, patience: 2}"],
        "could end after step 8 at the earliest, and it has 8; lower `patience` or `every`",
    ),
    "a count for nothing": (
        [*HELD_OUT, "evaluation.count=2"],
        "evaluation.count: is for evaluations inside the run, and nothing asks for any",
    ),
    "too many": (
        [*HELD_OUT, "evaluation.every=2", "evaluation.count=7"],
        "evaluation.count: must be in [1, 6], the number of held-out prompts, got 7",
    ),
    "a taken label": (
        [*HELD_OUT, "evaluation.every=2", "evaluation.metrics={reward: {name: shapes}}"],
        "evaluation.metrics.reward: is the name of a metric that every evaluation has",
    ),
    "diversity of one picture": (
        [*HELD_OUT, "evaluation.every=2", "evaluation.metrics={spread: {name: diversity}}"],
        "evaluation.metrics.spread: needs several pictures of a prompt, and an evaluation inside "
        "the run makes one of each; measure it by flowbp-eval",
    ),
    "a distance that is to rise": (
        [
            *HELD_OUT,
            "evaluation.metrics={far: {name: pixel_distance}}",
            "early_stop={metric: far, every: 2}",
        ],
        "early_stop.metric: is 'far', the distance from the model before training, where higher",
    ),
    "no patience": (
        [*HELD_OUT, "early_stop={metric: reward, every: 1, patience: 0}"],
        "early_stop.patience: must be an integer >= 1, got 0",
    ),
}


@pytest.mark.parametrize("typed, message", MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_found_before_a_model_is_loaded(yaml, capsys, typed, message):
    assert main([yaml, *typed, "--check"]) == 2
    assert message in capsys.readouterr().err


def test_the_settings_can_be_written_and_read(yaml, tmp_path, held):
    from flowbp.settings import resolved

    settings = load([yaml, *ENDING]).settings
    (tmp_path / "again.yaml").write_text(resolved(settings))
    assert load([str(tmp_path / "again.yaml")]).settings == settings


def test_a_metric_that_fails_stops_the_run_and_saves_it(yaml, tmp_path, monkeypatch, capsys):
    (tmp_path / "broken.py").write_text(
        "tries = []\n\ndef broken(images, prompts):\n    tries.append(1)\n"
        "    return images.mean((1, 2, 3)) * float('nan' if len(tries) > 1 else 1)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    typed = [
        *HELD_OUT,
        "evaluation.every=2",
        "evaluation.metrics.odd={name: reward, reward: {name: 'broken:broken'}}",
    ]
    assert main([yaml, *typed]) == 1
    told = capsys.readouterr().err
    assert "broken:broken must return finite scores" in told and "metric `odd`" in told
    assert "evaluation after step 0" in told
    assert "Traceback" not in told
