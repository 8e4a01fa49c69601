"""Equal prompts are one: a list that is repeated is no larger sample."""

from __future__ import annotations

import itertools
import random
from statistics import fmean

import attrs
import numpy as np
import pytest
import torch

from flowbp.evaluation import (
    Parting,
    ScoreRow,
    Scores,
    bootstrap_gain,
    compare,
    parting,
    scores_table,
    sign_flip_p,
    summarise,
)
from flowbp.evaluation.clusters import clustered

from .samples import comparison

TEXTS = [f"prompt {number}" for number in range(12)]
GAINS = [0.3, -0.1, 0.2, 0.4, 0.0, 0.1, -0.2, 0.5, 0.2, 0.3, -0.1, 0.2]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_clusters_against_plain_loops():
    source = random.Random(0)
    groups = [[source.gauss(0, 1) for _ in range(size)] for size in (1, 7, 20)]
    prompts = [[source.choice("abcde") for _ in group] for group in groups]
    for found, group, texts in zip(clustered(groups, prompts), groups, prompts, strict=True):
        order = list(dict.fromkeys(texts))
        sums = [sum(g for g, t in zip(group, texts, strict=True) if t == text) for text in order]
        assert found.sums.tolist() == pytest.approx(sums)
        assert found.sizes.tolist() == [texts.count(text) for text in order]
        assert found.mean.item() == pytest.approx(fmean(group))
        assert found.shares.sum().item() == pytest.approx(fmean(group))
    assert [len(each) for each in clustered(groups)] == [1, 7, 20]


@pytest.mark.parametrize(
    ("groups", "prompts", "message"),
    [
        ([], None, "`groups` is empty"),
        ([[1.0], []], None, "`groups` is empty"),
        ([[1.0, 2.0]], [["a"]], r"`prompts` must be one for each number, \[2\] in .* got \[1\]"),
        ([[1.0]], [["a"], ["b"]], r"got \[1, 1\]"),
    ],
)
def test_what_is_no_clusters_is_refused(groups, prompts, message):
    with pytest.raises(ValueError, match=message):
        clustered(groups, prompts)


@pytest.mark.parametrize("times", [1, 2, 5])
def test_a_repeated_list_has_the_interval_and_p_of_the_list(times):
    once = bootstrap_gain(GAINS, generator=generator())
    again = bootstrap_gain(GAINS * times, prompts=TEXTS * times, generator=generator())
    assert attrs.astuple(again) == pytest.approx(attrs.astuple(once), abs=1e-12)
    p = sign_flip_p([GAINS * times], prompts=[TEXTS * times], generator=generator())
    assert p == sign_flip_p([GAINS], generator=generator())
    if times > 1:
        shrunk = bootstrap_gain(GAINS * times, generator=generator())
        assert shrunk.high - shrunk.low < 0.8 * (again.high - again.low)


def test_what_repeats_more_weighs_more_as_in_the_mean():
    values, texts = [1.0, 2.0, 6.0, 0.0, 4.0], ["a", "b", "a", "c", "a"]
    gain = bootstrap_gain(values, prompts=texts, generator=generator(), resamples=50_000)
    assert gain.mean == pytest.approx(fmean(values))
    clusters = [(11.0, 3), (2.0, 1), (0.0, 1)]
    means = [
        sum(total for total, _ in drawn) / sum(size for _, size in drawn)
        for drawn in itertools.product(clusters, repeat=3)
    ]
    # Of three prompts the interval is all that was drawn, but for its outermost parts.
    assert gain.low == min(means) and gain.high == pytest.approx(max(means))
    signs = np.array(list(itertools.product((1, -1), repeat=3)))
    far = np.abs(signs @ [11.0, 2.0, 0.0]) >= 13 - 1e-9
    assert sign_flip_p([values], prompts=[texts], generator=generator()) == far.mean()


def test_the_interval_of_repeated_prompts_holds_the_truth_as_often_as_it_says():
    """Each for itself, it held it in 78 of 100."""
    source, held = generator(1), 0
    texts = [str(number) for number in range(20)] * 4
    for _ in range(200):
        own, noise = torch.randn(20, generator=source), torch.randn(80, generator=source)
        differences = (own.repeat(4) + noise).tolist()
        gain = bootstrap_gain(differences, prompts=texts, generator=source, resamples=500)
        held += gain.low <= 0 <= gain.high
    assert 0.9 <= held / 200 <= 0.99


def repeated(times: int, *, prompts: int = 12) -> Scores:
    """Two models on a list that is repeated, with other numbers in the list."""
    rows = [
        ScoreRow(
            model=model,
            number=copy * prompts + number,
            seed=seed,
            prompt=TEXTS[number],
            kind="k",
            values={"r": gain if model == "mine" else 0.0},
        )
        for model in ("base", "mine")
        for seed in (0, 1)
        for copy in range(times)
        for number, gain in enumerate(GAINS[:prompts])
    ]
    return Scores(rows)


def test_scores_of_a_repeated_list_are_those_of_the_list():
    once, again = repeated(1), repeated(4)
    few, many = (scores.paired("base", "mine", "r") for scores in (once, again))
    assert attrs.astuple(many.change.gain) == pytest.approx(attrs.astuple(few.change.gain))
    assert many.change.after == pytest.approx(few.change.after)
    assert (many.prompts, many.fewest, many.pictures) == (12, 12, 96)
    assert again.counts("mine", "r") == (12, 96) and again.prompts == 12
    mean, other = (scores.mean("mine", "r") for scores in (once, again))
    assert attrs.astuple(other) == pytest.approx(attrs.astuple(mean), abs=1e-12)
    (first,), (second,) = compare(once), compare(again)
    assert (first.p, first.significant) == (second.p, second.significant)
    assert "there are 12, and 96 pictures of each model" in scores_table(again)


def test_few_prompts_are_few_however_often_they_stand_there():
    (found,) = compare(repeated(5, prompts=6))
    assert found.p is None and not found.significant
    assert "of one prompt: no interval" in scores_table(repeated(5, prompts=1))


def test_a_run_on_a_repeated_list_has_its_intervals():
    pairs = [(0.0, gain) for gain in GAINS]
    once = summarise(comparison(pairs, prompts=TEXTS)).overall
    again = summarise(comparison(pairs * 3, prompts=TEXTS)).overall
    assert (once.count, again.count) == (12, 36)
    for name in ("mean", "low", "high"):
        expected = getattr(once.reward.gain, name)
        assert getattr(again.reward.gain, name) == pytest.approx(expected, abs=1e-12)


def test_inside_a_run_equal_prompts_warn_as_one():
    rows = [{"step": 10 * i} for i in range(3)]
    each = [{"reward": [i] * 20, "held": [-i] * 20} for i in range(3)]
    apart = Parting("held", best=0, since=10, prompts=20)
    assert parting(rows, each, "held", "reward") == apart
    names = [str(number) for number in range(20)]
    assert parting(rows, each, "held", "reward", prompts=names) == apart
    few = parting(rows, each, "held", "reward", prompts=names[:9] * 2 + names[:2])
    enough = parting(rows, each, "held", "reward", prompts=names[:10] * 2)
    assert few is None and enough == attrs.evolve(apart, prompts=10)
    assert parting(rows, each, "held", "reward", prompts=names[:7]) is None
