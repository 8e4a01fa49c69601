"""What is better, and how numbers are written."""

from __future__ import annotations

import random

import attrs
import pytest

from flowbp.evaluation import Scale, ScoreRow, Scores, compare, render, scores_table
from flowbp.evaluation.number_format import unit_of
from flowbp.evaluation.report_gallery import pictures_of, view_of
from flowbp.evaluation.reward_hacking import warnings_of
from flowbp.evaluation.tables import metric_lines

from .pages import report


def two(after: float, before: float = 0.0, *, scale: Scale | None = None, noise: float = 0.1):
    source = random.Random(0)
    rows = [
        ScoreRow(model="base", number=n, seed=0, prompt=f"p {n}", kind="k", values={"c": before})
        for n in range(20)
    ]
    other = [
        attrs.evolve(row, model="mine", values={"c": after + noise * abs(after) * source.random()})
        for row in rows
    ]
    return Scores([*rows, *other], scales={} if scale is None else {"c": scale})


def test_a_distance_from_the_base_is_no_gain():
    scores = two(0.4, scale=Scale(sign=0))
    (line,) = metric_lines(scores)
    assert line.significant is None and line.verdict == line.worth == ""
    assert compare(two(0.4))[0].significant and compare(scores)[0].p is None
    assert "*" not in scores_table(scores)
    page = render(report(scores=scores, trained={}, held_out=()))
    assert "no better or worse" in page and "not tested" in page
    # What went farthest is shown first all the same.
    assert len(view_of(scores, pictures_of(scores), "mine", "c").gains) == 8


@pytest.mark.parametrize(("after", "worth"), [(1.2, "bad"), (0.4, "good")])
def test_less_is_better(after, worth):
    scores = two(after, 0.8, scale=Scale(sign=-1))
    (line,) = metric_lines(scores)
    assert (line.verdict, line.worth) == ("up" if after > 0.8 else "down", worth)
    view = view_of(scores, pictures_of(scores), "mine", "c")
    assert bool(view.gains) == (worth == "good") and bool(view.losses) == (worth == "bad")
    rows = [attrs.evolve(r, values=r.values | {"r": float(r.model == "mine")}) for r in scores.rows]
    warned = warnings_of(metric_lines(Scores(rows, scales=scores.scales)), [], {"mine": ["r"]})
    assert bool(warned) == (worth == "bad")


def test_each_model_is_held_against_what_it_was_trained_on():
    rows = [
        attrs.evolve(row, model=model, values={"r": sign * height, "s": -sign * height})
        for row in two(0.4).rows
        if row.model == "mine"
        for model, sign, height in (("base", 1, 0.0), ("a", 1, 1.0), ("b", -1, 1.0))
    ]
    lines = metric_lines(Scores(rows))
    both = warnings_of(lines, [], {"a": ["r"], "b": ["s"]})
    assert sorted(text.split(",")[0] for text in both) == ["a: r", "b: s"]
    assert warnings_of(lines, [], {"a": ["s"], "b": ["r"]}) == ()
    assert warnings_of(lines, [], {"a": ["r", "s"]}) == ()


def test_a_judge_that_gives_all_the_least_mark_is_no_share():
    scores = two(1.0, 1.0, noise=0)
    assert not unit_of(scores, "c").percent and "100" not in scores_table(scores)
    assert unit_of(two(1.0, 1.0, scale=Scale(verdict=True), noise=0), "c").plain(1.0) == "100.0 %"


@pytest.mark.parametrize(
    ("before", "after", "written"),
    [
        (1e-6, 3e-6, ("1.00e−6", "3.00e−6")),
        (0.0012, 0.0031, ("0.00120", "0.00310")),
        (0.25, 0.41, ("0.250", "0.410")),
        (21.5, 23.0, ("21.50", "23.00")),
        (1234.0, 2234.0, ("1234", "2234")),
        (0.0, 0.0, ("0", "0")),
    ],
)
def test_numbers_keep_three_digits_of_what_tells_them_apart(before, after, written):
    scores = two(after, before, noise=0)
    unit = unit_of(scores, "c")
    assert (unit.plain(before), unit.plain(after)) == written
    told = scores_table(scores)
    assert written[0] in told and written[1] in told


def test_another_sign_is_refused():
    with pytest.raises(ValueError, match="`sign` must be 1"):
        Scale(sign=2)


def test_of_one_prompt_there_is_no_interval():
    rows = [row for row in two(0.4).rows if row.number == 0]
    scores = Scores(rows)
    assert "of one prompt: no interval" in scores_table(scores) and "[" not in scores_table(scores)
    page = render(report(scores=scores, trained={}, held_out=(), held_out_each=()))
    assert page.count("one prompt, no interval") == 2
