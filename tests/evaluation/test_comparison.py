from __future__ import annotations

import itertools
import json
import re
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from scipy import stats

from flowbp.evaluation import (
    Comparison,
    Evaluation,
    ScoreRow,
    from_json,
    table,
    to_json,
)

from .bootstrap import bootstrap_gain
from .samples import comparison

REWARDS = [(0.25, 0.5), (0.1 + 0.2, 1 / 3), (0.5, 0.125)]
VERDICTS = [(False, True), (True, True), (True, False)]
ODD = ['a "circle"', "zwölf Kreise ☃", "<script>"]


@pytest.mark.parametrize("verdicts", [VERDICTS, None])
def test_json_round_trip_is_exact(verdicts: list[tuple[bool, bool]] | None) -> None:
    value = comparison(REWARDS, verdicts, prompts=ODD, kinds=["counting", "position"])
    assert from_json(to_json(value)) == value
    assert to_json(from_json(to_json(value))) == to_json(value)


def test_json_keys_are_stable() -> None:
    tree = json.loads(to_json(comparison(REWARDS, VERDICTS)))
    assert list(tree) == ["format", "summary", "before", "after"]
    assert list(tree["summary"]) == ["kinds", "overall", "parts"]
    assert list(tree["summary"]["overall"]) == ["name", "count", "reward", "accuracy"]
    assert list(tree["before"]) == ["label", "noise_seed", "seconds", "records"]
    assert list(tree["before"]["records"][0]) == [
        "index",
        "prompt",
        "kind",
        "reward",
        "judged",
        "parts",
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tree: tree.update(format=1), "object of format 2, got 1"),
        (lambda tree: tree.pop("after"), "after"),
        (lambda tree: tree["after"].update(speed=1), "speed"),
        (lambda tree: tree["before"]["records"][0].update(judged="no"), "judged"),
        (lambda tree: tree["before"]["records"][1].update(prompt="other"), "differ"),
        (lambda tree: tree.update(before=None), "comparison"),
    ],
)
def test_json_of_another_kind_is_refused(change: object, message: str) -> None:
    tree = json.loads(to_json(comparison(REWARDS, VERDICTS)))
    change(tree)
    with pytest.raises(ValueError, match=message):
        from_json(json.dumps(tree))


@pytest.mark.parametrize("text", ["{", "[]", "3"])
def test_text_that_is_no_such_json_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="`text`"):
        from_json(text)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"noise_seed": 9}, "`noise_seed` is 3 before and 9 after"),
        (
            {"rows": comparison(REWARDS).after.rows, "judged": False},
            "`judged` is True before and False",
        ),
        ({"rows": comparison(REWARDS[:2], VERDICTS).after.rows}, "are 3 before and 2 after"),
        (
            {"rows": comparison(REWARDS, VERDICTS, prompts=["a cross"]).after.rows},
            "'a circle', 'single_object'.* before, .*'a cross'",
        ),
    ],
)
def test_evaluations_that_cannot_be_paired_are_refused(
    change: dict[str, object], message: str
) -> None:
    value = comparison(REWARDS, VERDICTS)
    with pytest.raises(ValueError, match=message):
        Comparison(value.before, attrs.evolve(value.after, **change))


def row(number: int, prompt: str, **values: float) -> ScoreRow:
    return ScoreRow(model="before", number=number, seed=0, prompt=prompt, kind="k", values=values)


def test_an_evaluation_is_judged_wholly_or_not_at_all() -> None:
    rows = [row(0, "a circle", accuracy=1.0, reward=0.5), row(1, "a cross", reward=0.5)]
    message = "accuracy, reward at 'a circle' and reward at 'a cross'.*judge all of them or none"
    with pytest.raises(ValueError, match=message):
        Evaluation(label="before", noise_seed=0, seconds=1, judged=True, rows=rows)
    tree = json.loads(to_json(comparison(REWARDS, VERDICTS)))
    tree["before"]["records"][1]["judged"] = None
    with pytest.raises(ValueError, match="judge all of them or none"):
        from_json(json.dumps(tree))
    with pytest.raises(ValueError, match="`rows` must not be empty"):
        Evaluation(label="before", noise_seed=0, seconds=1, rows=[])


def test_a_reward_that_is_not_finite_is_refused() -> None:
    with pytest.raises(ValueError, match="`reward` must be a finite number, got nan"):
        Evaluation(
            label="before", noise_seed=0, seconds=1, rows=[row(0, "a circle", reward=float("nan"))]
        )


FOUR_REWARDS = [(0.25, 0.5), (0.25, 0.25), (0.5, 0.375), (0.0, 1.0)]
FOUR_VERDICTS = [(False, True), (True, True), (True, False), (False, True)]
KINDS = ["counting", "position"]
PROMPTS = ["two circles", "a cross above a circle", "three squares", "a circle left of a cross"]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_bootstrap_interval_against_scipy() -> None:
    differences = np.random.default_rng(0).gamma(1.0, 0.3, 200) - 0.1
    gain = bootstrap_gain(differences.tolist(), generator=generator(), resamples=20_000)
    other = stats.bootstrap(
        (differences,),
        np.mean,
        n_resamples=20_000,
        method="percentile",
        rng=1,
        confidence_level=1 - 2 * expanded(200, 0.95),
    ).confidence_interval
    assert gain.mean == pytest.approx(differences.mean(), rel=1e-12)
    # Two independent bootstraps of 20,000 draws: their ends scatter by about 2 % of the width.
    width = other.high - other.low
    assert gain.low == pytest.approx(other.low, abs=0.04 * width)
    assert gain.high == pytest.approx(other.high, abs=0.04 * width)


def expanded(count: int, level: float) -> float:
    """The share below the interval, by scipy's own distributions."""
    wide = np.sqrt(count / (count - 1)) * stats.t.ppf((1 + level) / 2, count - 1)
    return stats.norm.cdf(-wide)


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_bootstrap_interval_against_all_resamples_of_five(level: float) -> None:
    values = np.array([0.0, 1.0, 1.5, 5.0, 9.0])
    means = [np.mean(drawn) for drawn in itertools.product(values, repeat=5)]
    ends = expanded(5, level), 1 - expanded(5, level)
    gain = bootstrap_gain(values.tolist(), generator=generator(), resamples=50_000, level=level)
    assert (gain.low, gain.high) == pytest.approx(np.quantile(means, ends), abs=0.11)


@pytest.mark.parametrize("count", [6, 12, 48])
def test_the_interval_holds_the_truth_as_often_as_it_says(count: int) -> None:
    """The plain percentile interval held it in 85, 92 and 95 of 100."""
    source = torch.Generator().manual_seed(count)
    held = 0
    for _ in range(400):
        differences = torch.randn(count, generator=source).tolist()
        gain = bootstrap_gain(differences, generator=source, resamples=500)
        held += gain.low <= 0 <= gain.high
    assert 0.915 <= held / 400 <= 0.98


def test_bootstrap_is_a_function_of_its_generator() -> None:
    values = np.random.default_rng(2).normal(size=50).tolist()
    first = bootstrap_gain(values, generator=generator(1))
    assert first == bootstrap_gain(values, generator=generator(1))
    assert first != bootstrap_gain(values, generator=generator(2))


@pytest.mark.parametrize(
    ("differences", "options", "message"),
    [
        ([], {}, "`groups` is empty"),
        ([1.0], {"resamples": 0}, "`resamples` must be at least 1, got 0"),
        ([1.0], {"level": 1.0}, r"`level` must be between 0 and 1, got 1\.0"),
    ],
)
def test_bootstrap_refuses(
    differences: list[float], options: dict[str, float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        bootstrap_gain(differences, generator=generator(), **options)


def summary(value: Comparison) -> dict[str, Any]:
    return json.loads(to_json(value))["summary"]


def test_summary_per_kind_and_overall() -> None:
    found = summary(comparison(FOUR_REWARDS, FOUR_VERDICTS, kinds=KINDS, prompts=PROMPTS))
    counting, position = found["kinds"]
    assert [(each["name"], each["count"]) for each in found["kinds"]] == [
        ("counting", 2),
        ("position", 2),
    ]
    assert (counting["reward"]["before"], counting["reward"]["after"]) == (0.375, 0.4375)
    assert (counting["accuracy"]["before"], counting["accuracy"]["after"]) == (0.5, 0.5)
    assert (position["accuracy"]["before"], position["accuracy"]["after"]) == (0.5, 1.0)
    overall = found["overall"]
    assert (overall["name"], overall["count"]) == ("overall", 4)
    assert (overall["reward"]["before"], overall["reward"]["after"]) == (0.25, 0.53125)
    assert overall["reward"]["gain"]["mean"] == 0.28125
    assert overall["accuracy"]["gain"]["mean"] == 0.25
    assert overall["accuracy"]["gain"]["low"] < 0.25 < overall["accuracy"]["gain"]["high"]


def test_a_line_does_not_depend_on_the_other_kinds() -> None:
    both = summary(comparison(FOUR_REWARDS, FOUR_VERDICTS, kinds=KINDS, prompts=PROMPTS))
    alone = summary(
        comparison(FOUR_REWARDS[::2], FOUR_VERDICTS[::2], kinds=["counting"], prompts=PROMPTS[::2])
    )
    assert both["kinds"][0] == alone["kinds"][0]


def test_n_counts_different_prompts() -> None:
    value = comparison(FOUR_REWARDS, prompts=PROMPTS[:2])
    assert table(value).splitlines()[-2].split()[:2] == ["overall", "2"]
    paired = value.scores.paired("before", "after", "reward")
    assert (paired.prompts, paired.pictures) == (2, 4)


def test_table_with_a_judge() -> None:
    lines = table(
        comparison(FOUR_REWARDS, FOUR_VERDICTS, kinds=KINDS, prompts=PROMPTS)
    ).splitlines()
    assert lines[0].split() == ["kind", "n", "reward", "gain", "accuracy", "gain"]
    cells = [re.split("  +", line) for line in (lines[2], lines[3], lines[5])]
    assert cells == [
        ["counting", "2", "0.375 → 0.438", "+0.062", "50.0 % → 50.0 %", "0.0"],
        ["position", "2", "0.12 → 0.62", "+0.50", "50.0 % → 100.0 %", "+50.0"],
        ["overall", "4", "0.25 → 0.53", "+0.28", "50.0 % → 75.0 %", "+25.0"],
    ]
    assert lines[6].startswith("reward gain +0.28, 95 % interval [")
    assert lines[7].startswith("accuracy gain +25.0 points, 95 % interval [")
    assert len(lines) == 8
    assert max(map(len, lines)) <= 80


def test_table_without_a_judge_has_no_accuracy() -> None:
    text = table(comparison(FOUR_REWARDS, kinds=KINDS, prompts=PROMPTS))
    assert "accuracy" not in text
    assert text.splitlines()[0].split() == ["kind", "n", "reward", "gain"]
