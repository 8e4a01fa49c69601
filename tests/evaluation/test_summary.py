from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
import torch
from scipy import stats

from flowbp.evaluation import bootstrap_gain, summarise, table

from .samples import comparison

REWARDS = [(0.25, 0.5), (0.25, 0.25), (0.5, 0.375), (0.0, 1.0)]
VERDICTS = [(False, True), (True, True), (True, False), (False, True)]
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
        ([], {}, "`differences` is empty"),
        ([1.0], {"resamples": 0}, "`resamples` must be at least 1, got 0"),
        ([1.0], {"level": 1.0}, r"`level` must be between 0 and 1, got 1\.0"),
    ],
)
def test_bootstrap_refuses(
    differences: list[float], options: dict[str, float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        bootstrap_gain(differences, generator=generator(), **options)


def test_summary_per_kind_and_overall() -> None:
    summary = summarise(comparison(REWARDS, VERDICTS, kinds=KINDS, prompts=PROMPTS))
    counting, position = summary.kinds
    assert [(row.name, row.count) for row in summary.kinds] == [("counting", 2), ("position", 2)]
    assert (counting.reward.before, counting.reward.after) == (0.375, 0.4375)
    assert (counting.accuracy.before, counting.accuracy.after) == (0.5, 0.5)
    assert (position.accuracy.before, position.accuracy.after) == (0.5, 1.0)
    overall = summary.overall
    assert (overall.name, overall.count) == ("overall", 4)
    assert (overall.reward.before, overall.reward.after) == (0.25, 0.53125)
    assert overall.reward.gain.mean == 0.28125
    assert overall.accuracy.gain.mean == 0.25
    assert overall.accuracy.gain.low < 0.25 < overall.accuracy.gain.high


def test_a_row_does_not_depend_on_the_other_kinds() -> None:
    both = summarise(comparison(REWARDS, VERDICTS, kinds=KINDS, prompts=PROMPTS))
    alone = summarise(
        comparison(REWARDS[::2], VERDICTS[::2], kinds=["counting"], prompts=PROMPTS[::2])
    )
    assert both.kinds[0] == alone.kinds[0]


def test_table_with_a_judge() -> None:
    lines = table(comparison(REWARDS, VERDICTS, kinds=KINDS, prompts=PROMPTS)).splitlines()
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
    text = table(comparison(REWARDS, kinds=KINDS, prompts=PROMPTS))
    assert "accuracy" not in text
    assert text.splitlines()[0].split() == ["kind", "n", "reward", "gain"]
