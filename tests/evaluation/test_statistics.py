"""When a gain is called significant: the test, its correction, and how often both are wrong."""

from __future__ import annotations

import itertools
import json
import random
from statistics import fmean

import attrs
import numpy as np
import pytest
import torch
from scipy import stats

from flowbp.evaluation import (
    ScoreRow,
    Scores,
    compare,
    scores_table,
    scores_to_json,
)
from flowbp.evaluation.reward_hacking import Divergence, find_divergence
from flowbp.evaluation.statistics import Gain, clustered, holm, sign_flip_p, stratified_gain

from .bootstrap import bootstrap_gain
from .samples import comparison

PROMPTS = (6, 8, 12, 20, 48)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def differing(count: int, columns: int, models: int, source: random.Random, **gaps: float):
    """Models that differ by noise alone, but for gaps in columns that are named."""
    names = [f"c{column}" for column in range(columns)]
    rows = []
    for number in range(models + 1):
        for prompt in range(count):
            shift = gaps if number else {}
            values = {name: source.gauss(shift.get(name, 0.0), 1) for name in names}
            row = ScoreRow(
                model=f"m{number}",
                number=prompt,
                seed=0,
                prompt=f"p {prompt}",
                kind="k",
                values=values,
            )
            rows.append(row)
    return Scores(rows)


@pytest.mark.parametrize("count", [1, 5, 12])
def test_few_prompts_are_tested_by_all_choices_of_signs(count):
    source = random.Random(count)
    values = [source.choice([0.0, 0.5, -0.5, source.gauss(0.3, 1)]) for _ in range(count)]
    sums = [
        sum(s * v for s, v in zip(signs, values, strict=True))
        for signs in itertools.product((1, -1), repeat=count)
    ]
    far = [abs(each) >= abs(sum(values)) - 1e-9 for each in sums]
    assert sign_flip_p([values], generator=generator()) == sum(far) / len(far)


def test_verdicts_are_tested_as_mcnemar_does():
    values = [1.0] * 9 + [-1.0] * 2 + [0.0] * 300
    expected = stats.binomtest(9, 11).pvalue
    assert sign_flip_p([values], generator=generator()) == pytest.approx(expected)
    many = [1.0] * 40 + [-1.0] * 20 + [0.0] * 300
    expected = stats.binomtest(40, 60).pvalue
    assert sign_flip_p([many], generator=generator()) == pytest.approx(expected, abs=0.004)


def test_many_prompts_are_tested_as_student_does():
    values = torch.randn(200, generator=generator(1)).add(0.15).tolist()
    expected = stats.ttest_1samp(values, 0).pvalue
    assert sign_flip_p([values], generator=generator()) == pytest.approx(expected, abs=0.01)


def test_columns_of_a_total_count_alike():
    groups = [[1.0] * 6, [-1.0] * 2]
    # Six sixths against two halves: the total is 0.
    assert sign_flip_p(groups, generator=generator()) == 1.0
    assert sign_flip_p([[0.0] * 4], generator=generator()) == 1.0


@pytest.mark.parametrize(
    ("groups", "flips", "message"),
    [([], 9, "`groups` is empty"), ([[1.0], []], 9, "`groups` is empty"), ([[1.0]], 0, "`flips`")],
)
def test_what_cannot_be_tested_is_refused(groups, flips, message):
    with pytest.raises(ValueError, match=message):
        sign_flip_p(groups, generator=generator(), flips=flips)


def test_holm_against_its_definition():
    source = random.Random(0)
    for size in range(8):
        p = [source.random() ** 4 for _ in range(size)]
        rejected = {level: set() for level in (0.01, 0.05, 0.2)}
        for level, found in rejected.items():
            for place, number in enumerate(sorted(range(size), key=p.__getitem__)):
                if p[number] > level / (size - place):
                    break
                found.add(number)
            assert {n for n, each in enumerate(holm(p)) if each <= level} == found


@pytest.mark.parametrize("count", PROMPTS)
def test_one_comparison_is_a_false_alarm_in_at_most_one_of_twenty(count):
    """By the percentile interval it was in 15, 11, 8, 7 and 5 of 100."""
    source = random.Random(count)
    alarms = sum(compare(differing(count, 1, 1, source))[0].significant for _ in range(200))
    # Three deviations above 0.05.
    assert alarms <= (0 if count < 10 else 19)


def test_a_table_of_45_comparisons_has_a_false_alarm_in_at_most_one_of_twenty():
    """By uncorrected intervals there was one in 96 of 100 tables."""
    source = random.Random(0)
    tables = [compare(differing(48, 15, 3, source)) for _ in range(12)]
    assert all(len(table) == 45 and all(each.p for each in table) for table in tables)
    assert sum(any(each.significant for each in table) for table in tables) <= 3


def test_a_real_gain_is_found_among_many_columns():
    found = compare(differing(48, 15, 1, random.Random(0), c3=1.5))
    assert [each.column for each in found if each.significant] == ["c3"]


def test_so_many_comparisons_that_drawn_flips_alone_could_show_none():
    found = compare(differing(20, 300, 2, random.Random(0), c3=4.0))
    assert [each.column for each in found if each.significant] == ["c3", "c3"]


def test_three_improved_prompts_of_six_are_no_evidence():
    base = [
        ScoreRow(model="base", number=n, seed=0, prompt=f"p {n}", kind="k", values={"v": 0.0})
        for n in range(6)
    ]
    mine = [attrs.evolve(row, model="mine", values={"v": float(row.number < 3)}) for row in base]
    found = compare(Scores([*base, *mine]))[0]
    assert not found.significant and found.p is None


def test_table_and_file_say_the_rule():
    scores = differing(12, 2, 1, random.Random(0), c0=4.0)
    text = scores_table(scores)
    said = "p ≤ 0.05 after Holm's correction for the 2 comparisons of the table"
    assert f"* significant: sign-flip test over prompts, {said}" in text
    tree = json.loads(scores_to_json(scores))
    assert said in tree["significance"]
    gain = tree["summary"]["m1"]["c0"]["gain"]
    assert gain["significant"] and gain["p"] <= gain["corrected_p"] <= 0.05
    few = json.loads(scores_to_json(differing(3, 1, 1, random.Random(0))))
    assert few["summary"]["m1"]["c0"]["gain"]["p"] is None


TEXTS = [f"prompt {number}" for number in range(12)]
GAINS = [0.3, -0.1, 0.2, 0.4, 0.0, 0.1, -0.2, 0.5, 0.2, 0.3, -0.1, 0.2]


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
    once, again = (
        comparison(pairs * times, prompts=TEXTS).scores.paired("before", "after", "reward")
        for times in (1, 3)
    )
    assert (once.pictures, again.pictures) == (12, 36)
    for name in ("mean", "low", "high"):
        expected = getattr(once.change.gain, name)
        assert getattr(again.change.gain, name) == pytest.approx(expected, abs=1e-12)


def test_inside_a_run_equal_prompts_warn_as_one():
    rows = [{"step": 10 * i} for i in range(3)]
    each = [{"reward": [i] * 20, "held": [-i] * 20} for i in range(3)]
    apart = Divergence("held", best=0, since=10, prompts=20)
    assert find_divergence(rows, each, "held", "reward") == apart
    names = [str(number) for number in range(20)]
    assert find_divergence(rows, each, "held", "reward", prompts=names) == apart
    few = find_divergence(rows, each, "held", "reward", prompts=names[:9] * 2 + names[:2])
    enough = find_divergence(rows, each, "held", "reward", prompts=names[:10] * 2)
    assert few is None and enough == attrs.evolve(apart, prompts=10)
    assert find_divergence(rows, each, "held", "reward", prompts=names[:7]) is None


def test_groups_count_alike_whatever_their_sizes():
    assert stratified_gain([[1.0] * 9, [0.0]], generator=generator()) == Gain(0.5, 0.5, 0.5)
