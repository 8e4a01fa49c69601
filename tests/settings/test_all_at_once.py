"""Mistakes of any kind, in whatever sections, are reported together, and nothing besides."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest

from flowbp.cli.evaluate.preflight import load as load_evaluation
from flowbp.config import ConfigurationError
from flowbp.settings import load

# What a file holds, and the key or words by which its one problem is told.
MISTAKES = {
    "a number out of range": ("run: {seed: -1}", "run.seed: "),
    "an unknown name": ("backbone: {name: shape}", "backbone.name: "),
    "parts without any": ("reward: {name: weighted, parts: {}}", "reward.parts: "),
    "no such file": ("prompts: {name: text, path: none.txt}", "prompts.path: "),
    "a method beyond the grid": ("method: {name: sparse, active: 40}", "method.active: "),
    "a missing key": ("loss: {name: target}", "loss.value: "),
    "an unknown key": ("sampling: {step: 3}", "sampling.step: "),
    "a tag": ("batching: {samples: !mine 3}", "batching.samples: has the tag"),
    "a key twice": ("optimizer: {name: adamw}\noptimizer: 3", "optimizer: is given twice"),
    "no YAML": ("schedule: {name: constant", "is not YAML"),
    "an average of the start": ("training: {averaging: {decay: 0.999}}", "training.averaging: "),
    "more pictures than prompts": ("samples: {every: 1, count: 1000}", "samples.count: "),
    "keys that exclude each other": ("checkpoints: {every: null, keep: 2}", "checkpoints.keep: "),
    "a size of nothing": ("evaluation: {batch: 0}", "evaluation.batch: "),
    "a metric that is not there": ("early_stop: {metric: speed, every: 9}", "early_stop.metric: "),
    "a number for a word": ("observers: {tensorboard: 1}", "observers.tensorboard: "),
    "a word for a number": ("anchor: {strength: much}", "anchor.strength: "),
    "a huge number": (f"embeddings: {{batch: {'9' * 5000}}}", "embeddings.batch: "),
}


def combinations() -> list[tuple[str, ...]]:
    single = [(name,) for name in MISTAKES]
    threes = list(itertools.combinations(MISTAKES, 3))
    return [
        *single,
        *itertools.combinations(MISTAKES, 2),
        *random.Random(0).sample(threes, 60),
        tuple(MISTAKES),
    ]


def test_any_mistakes_are_all_reported_and_nothing_that_follows(tmp_path: Path) -> None:
    for names in combinations():
        path = tmp_path / "overlay.yaml"
        path.write_text("\n".join(MISTAKES[name][0] for name in names) + "\n")
        with pytest.raises(ConfigurationError) as caught:
            load(["container.yaml", str(path), f"run.folder={tmp_path / 'run'}"])
        told = [str(problem) for problem in caught.value.problems]
        for name in names:
            assert sum(MISTAKES[name][1] in line for line in told) == 1, (names, told)
        assert len(told) == len(names), (names, told)


@pytest.mark.parametrize("names", list(itertools.combinations(list(MISTAKES)[:6], 2)))
def test_of_a_file_that_cannot_be_read_nothing_is_said_to_be_missing(
    tmp_path: Path, names: tuple[str, str]
) -> None:
    path = tmp_path / "overlay.yaml"
    path.write_text("\n".join(MISTAKES[name][0] for name in names) + "\n")
    with pytest.raises(ConfigurationError) as caught:
        load(["absent.yaml", str(path), "judge.name=shapes", "training.steps=3"])
    told = [str(problem) for problem in caught.value.problems]
    assert "absent.yaml: cannot be read" in told[0]
    assert not any("is missing" in line or "judge" in line for line in told)


def test_the_mistakes_of_the_issue_come_in_one_go(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("reward: {name: shapes}\nloss: {name: linear}\nprompts: {name: shapes}\n")
    typed = ["checkpoints.every=null", "training.steps=4", "method.active=99"]
    presets = ["presets/sd35_medium.yaml", "presets/sd35_medium/bridge.yaml"]
    with pytest.raises(ConfigurationError) as caught:
        load([*presets, str(mine), f"run.folder={tmp_path / 'run'}", *typed])
    assert {each.path for each in caught.value.problems} == {
        "checkpoints.keep",
        "training.averaging",
        "method.active",
    }


def test_an_evaluation_reports_all_at_once_too(tmp_path: Path) -> None:
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("prompts: {name: shapes, count: !mine 3}\nbackbone: {name: shape}\n")
    typed = [
        f"evaluation.folder={tmp_path / 'out'}",
        "evaluation.device=cuda:99",
        "models={base: {}, other: {checkpoint: /none}}",
        "metrics={seed: {name: shapes}}",
        "sampling.steps=0",
    ]
    with pytest.raises(ConfigurationError) as caught:
        load_evaluation(["evaluation.yaml", str(overlay), *typed])
    assert {each.path for each in caught.value.problems} == {
        "prompts.count",
        "backbone.name",
        "evaluation.device",
        "models.other.checkpoint",
        "metrics",
        "sampling.steps",
    }


def test_what_else_is_wrong_is_checked_besides_only_where_something_is(tmp_path: Path) -> None:
    def also(settings):
        yield ("reward",), f"lacks {settings.reward.name}"

    typed = ["container.yaml", f"run.folder={tmp_path / 'run'}"]
    assert load(typed, also=[also]).settings.training.steps == 200
    with pytest.raises(ConfigurationError, match="reward: lacks shapes"):
        load([*typed, "training.steps=0"], also=[also])
    with pytest.raises(ConfigurationError) as caught:
        load([*typed, "reward.name=shape"], also=[also])
    assert len(caught.value.problems) == 1
