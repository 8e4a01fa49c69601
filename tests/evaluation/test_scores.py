"""Scores of several models against an oracle in plain loops, and their files."""

from __future__ import annotations

import csv
import io
import json
import math
import random
from statistics import fmean

import attrs
import pytest

from flowbp.evaluation import (
    MetricFailure,
    ScoreRow,
    Scores,
    compare,
    scores_from_json,
    scores_table,
    scores_to_csv,
    scores_to_json,
)


def made(prompts: int, seeds: int, *, gap: float = 0.0, seed: int = 0) -> Scores:
    """Random scores of three models, some NaN and some absent."""
    source = random.Random(seed)
    rows = []
    for model in ("base", "mine", "other"):
        for noise in range(seeds):
            for number in range(prompts):
                values = {"a": source.gauss(0, 1) + gap * (model == "mine"), "b": source.random()}
                if source.random() < 0.2:
                    values["a"] = math.nan
                if source.random() < 0.2:
                    del values["b"]
                row = ScoreRow(
                    model=model,
                    number=number,
                    seed=noise,
                    prompt=f'prompt "{number}", ○',
                    kind=f"kind {number % 2}",
                    values=values,
                )
                rows.append(row)
    return Scores(rows, [MetricFailure(metric="c", message="no file")])


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("column", ["a", "b"])
def test_paired_means(seed, column):
    scores = made(7, 3, seed=seed)
    differences, olds, news = [], [], []
    for number in range(7):
        old, new = [], []
        for noise in range(3):
            found = {
                row.model: row.values.get(column, math.nan)
                for row in scores.rows
                if (row.number, row.seed) == (number, noise)
            }
            if not math.isnan(found["base"]) and not math.isnan(found["mine"]):
                old.append(found["base"])
                new.append(found["mine"])
        if old:
            olds.append(fmean(old))
            news.append(fmean(new))
            differences.append(fmean(new) - fmean(old))
    paired = scores.paired("base", "mine", column)
    assert paired.prompts == len(differences)
    assert paired.change.gain.mean == pytest.approx(fmean(differences))
    assert paired.change.before == pytest.approx(fmean(olds))
    assert paired.change.after == pytest.approx(fmean(news))
    assert paired.change.gain.low <= paired.change.gain.mean <= paired.change.gain.high
    back = scores.paired("mine", "base", column)
    assert back.change.gain.mean == pytest.approx(-paired.change.gain.mean)


def test_pictures_of_one_prompt_are_no_evidence_of_their_own():
    rows = []
    for seed in range(50):
        for number, gain in enumerate((-0.2, 0.0, 0.1, 0.2, 0.3, -0.1, 0.25, 0.05)):
            for model in ("base", "mine"):
                values = {"a": gain if model == "mine" else 0.0}
                row = ScoreRow(
                    model=model,
                    number=number,
                    seed=seed,
                    prompt=f"p {number}",
                    kind="k",
                    values=values,
                )
                rows.append(row)
    few = Scores([row for row in rows if row.seed == 0]).paired("base", "mine", "a")
    many = Scores(rows).paired("base", "mine", "a")
    assert many.change.gain.low == pytest.approx(few.change.gain.low)
    assert many.change.gain.high == pytest.approx(few.change.gain.high)


def test_files_hold_everything():
    scores = made(5, 2)
    again = scores_from_json(scores_to_json(scores))
    # NaN equals nothing, not even itself.
    assert repr(again) == repr(scores)
    lines = list(csv.DictReader(scores_to_csv(scores).splitlines()))
    for line, row in zip(lines, scores.rows, strict=True):
        assert (line["model"], int(line["number"]), line["prompt"]) == (
            row.model,
            row.number,
            row.prompt,
        )
        for column in ("a", "b"):
            value = row.values.get(column, math.nan)
            assert line[column] == ("" if math.isnan(value) else repr(value))


@pytest.mark.parametrize(
    "prompt",
    ["=HYPERLINK(1)", "+1", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "'quoted' word", "''", "a = b", ""],
)
def test_no_prompt_is_a_formula_in_a_spreadsheet(prompt):
    row = ScoreRow(model="base", number=0, seed=0, prompt=prompt, kind=prompt or "k")
    text = scores_to_csv(Scores([attrs.evolve(row, values={"-a": -1.5})]))
    (line,) = csv.DictReader(io.StringIO(text, newline=""))
    assert not line["prompt"].startswith(("=", "+", "-", "@", "\t", "\r"))
    assert line["prompt"].removeprefix("'") == prompt or line["prompt"] == prompt != "''"
    assert line["kind"] == (line["prompt"] or "k")
    # Numbers stay numbers.
    assert float(line["'-a"]) == -1.5


def test_a_kind_apart():
    scores = made(6, 1)
    assert scores.kinds == ("kind 0", "kind 1")
    assert {row.number % 2 for row in scores.of_kind("kind 1").rows} == {1}


def test_a_column_that_says_nothing():
    row = ScoreRow(model="base", number=0, seed=0, prompt="p", kind="k", values={"a": math.nan})
    scores = Scores([row, attrs.evolve(row, model="mine", values={"a": 1.0})])
    assert scores.mean("base", "a") is None and scores.paired("base", "mine", "a") is None
    assert scores_table(scores).splitlines()[2].split() == ["a", "base", "-", "0"]


def test_refusals():
    row = ScoreRow(model="base", number=0, seed=0, prompt="p", kind="k")
    with pytest.raises(ValueError, match="twice for the model 'base'"):
        Scores([row, row])
    with pytest.raises(ValueError, match="got inf for 'a'"):
        attrs.evolve(row, values={"a": math.inf})
    with pytest.raises(ValueError, match="holds no scores"):
        scores_from_json("{}")


def tasks(prompts: dict[str, int], seeds: int = 2, *, seed: int = 0) -> Scores:
    """Two models on tasks of different sizes, a column each, with their total."""
    source = random.Random(seed)
    kinds = [kind for kind, count in prompts.items() for _ in range(count)]
    rows = [
        ScoreRow(
            model=model,
            number=number,
            seed=noise,
            prompt=f"prompt {number}",
            kind=kind,
            values={k: float(source.random() < 0.6) if k == kind else math.nan for k in prompts},
        )
        for model in ("base", "mine")
        for noise in range(seeds)
        for number, kind in enumerate(kinds)
    ]
    return Scores(rows, totals={"total": tuple(prompts)})


@pytest.mark.parametrize("seed", range(5))
def test_a_total_is_the_mean_of_its_columns_means(seed):
    scores = tasks({"a": 8, "b": 20, "c": 9}, seed=seed)
    assert scores.columns == ("a", "b", "c")
    assert scores.columns_and_totals == ("a", "b", "c", "total")
    for model in scores.models:
        means = [scores.mean(model, column).mean for column in "abc"]
        assert scores.mean(model, "total").mean == pytest.approx(fmean(means), abs=1e-12)
    found, parts = (
        scores.paired("base", "mine", "total"),
        [scores.paired("base", "mine", c) for c in "abc"],
    )
    assert found.prompts == 37 and found.fewest == 8
    for name in ("before", "after"):
        assert getattr(found.change, name) == pytest.approx(
            fmean(getattr(part.change, name) for part in parts)
        )
    assert found.change.gain.mean == pytest.approx(fmean(p.change.gain.mean for p in parts))
    # Of independent columns, so that the widths add up like deviations.
    widths = [part.change.gain.high - part.change.gain.low for part in parts]
    width = found.change.gain.high - found.change.gain.low
    assert width == pytest.approx(math.sqrt(sum(w * w for w in widths)) / 3, rel=0.2)


def test_a_total_that_lacks_a_column_is_none():
    scores = tasks({"a": 3, "b": 3})
    only = Scores([row for row in scores.rows if row.kind == "a"], totals=scores.totals)
    assert only.mean("base", "total") is None and only.paired("base", "mine", "total") is None
    told = [line.split() for line in scores_table(only).splitlines()]
    assert ["total", "base", "-", "0"] in told
    # A few prompts of a column are no evidence for a total.
    few = compare(tasks({"a": 1, "b": 30}))
    assert {each.column: each.p is not None for each in few} == {
        "a": False,
        "b": True,
        "total": False,
    }


def test_every_figure_says_how_many_it_is_of():
    rows = [
        ScoreRow(
            model=model,
            number=number,
            seed=seed,
            prompt=f"p {number}",
            kind="k",
            # Of 100 prompts and two seeds four pictures of two prompts are judged, one of one.
            values={"few": 1.0 if number < 2 else math.nan} | ({"one": 1.0} if number == 7 else {}),
        )
        for model in ("base", "mine")
        for seed in (0, 1)
        for number in range(100)
    ]
    # The other model lacks one of them.
    rows[-100] = attrs.evolve(rows[-100], values={})
    scores = Scores(rows)
    assert scores.counts("base", "few") == (2, 4) and scores.counts("mine", "few") == (2, 3)
    assert scores.counts("base", "one") == (1, 2)
    told = scores_table(scores).splitlines()
    assert [line.split()[-1] for line in told[2:6:2]] == ["2", "1"]
    assert "there are 100, and 200 pictures of each model" in told[7]
    summary = json.loads(scores_to_json(scores))["summary"]
    assert (summary["base"]["few"]["prompts"], summary["base"]["few"]["pictures"]) == (2, 4)
    gain = summary["mine"]["few"]["gain"]
    assert (gain["prompts"], gain["pictures"]) == (2, 3)


def test_totals_in_files():
    scores = tasks({"a": 8, "b": 7})
    again = scores_from_json(scores_to_json(scores))
    assert again.totals == scores.totals and again.columns_and_totals == scores.columns_and_totals
    assert again.mean("mine", "total") == scores.mean("mine", "total")
    lines = list(csv.DictReader(scores_to_csv(scores).splitlines()))
    assert len(lines) == len(scores.rows) + 2 and lines[-1]["kind"] == "total"
    for model in scores.models:
        for column in scores.columns_and_totals:
            own = [float(li[column]) for li in lines if li["model"] == model and li[column]]
            assert fmean(own) == pytest.approx(scores.mean(model, column).mean)
    table = [line.split() for line in scores_table(scores).splitlines()]
    assert [line[0] for line in table if line[1:2] == ["base"]] == ["a", "b", "total"]


@pytest.mark.parametrize("totals", [{"a": ("b",)}, {"sum": ()}])
def test_totals_that_are_none_are_refused(totals):
    with pytest.raises(ValueError, match="`totals` must give columns for a name"):
        Scores(tasks({"a": 1, "b": 1}).rows, totals=totals)
