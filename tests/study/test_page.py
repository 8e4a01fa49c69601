"""The page and the tables of made-up results."""

from __future__ import annotations

import csv
import io
import json
import re

import attrs
import pytest

from flowbp.evaluation.collapse import Collapse
from flowbp.evaluation.statistics import Gain
from flowbp.study.comparison import Standing
from flowbp.study.page import render
from flowbp.study.predictors import predictors, spearman
from flowbp.study.results import MethodResult, Results
from flowbp.study.summary import AscentSummary, DirectionSummary
from flowbp.study.tables import (
    ascent_rows,
    gain_text,
    methods_csv,
    pair_rows,
    results_json,
    study_table,
    training_rows,
)
from flowbp.study.training_results import RateResult, RunResult

UP = Gain(0.1, 0.05, 0.15)
BEHIND = Gain(-0.02, -0.04, 0.01)


def run(seed=0, *, fall=None, failure=None):
    values = {"reward": (0.5, 0.6, 0.55), "accuracy": (0.6, 0.7, 0.8)}
    return RunResult(
        seed=seed,
        steps=(0, 10, 20),
        choosing=values,
        judging=values,
        held_out=fall,
        training=None,
        failure=failure,
        gains={},
    )


def method(label="<b>", gain=UP, share=0.5):
    direction = DirectionSummary(
        direction="adam", same=(0.1, 0.2), others=(0.05, share), useful=1, gain=gain, own=UP
    )
    return MethodResult(
        label=label,
        steps=20,
        step_cost=1.0,
        rates=(
            RateResult(rate=1e-5, runs=(run(),)),
            RateResult(rate=1e-4, runs=(run(fall=Collapse(10, 20, 0.05)),)),
            RateResult(rate=1e-3, runs=(run(failure="overflow"),)),
        ),
        best=1,
        standings={"reward": Standing(gain=gain, against={"b": BEHIND}, best=0.75)},
        ascent=AscentSummary(
            directions=(direction,),
            share=UP,
            agreement=UP,
            norm_spread=20.0,
            cosine=None,
            norm_ratio=None,
            rms_changes=(1e-5, 1e-4),
        ),
    )


RESULTS = Results(
    methods=(method(), MethodResult(label="b", ascent_failures=("not finite",))),
    before={"reward": 0.5, "parts.x": 1.0},
    predictors={"signal share": 0.9},
)


def test_the_page_loads_nothing_and_escapes_what_it_shows():
    page = render(RESULTS, title="a <study>", configuration="methods: <b>")
    assert not re.findall(r"(?:src|href)\s*=", page) and "://" not in page
    assert "default-src 'none'" in page and "script-src 'sha256-" in page
    assert "<b>" not in page.replace("<b class", "") and "&lt;b&gt;" in page
    assert "a &lt;study&gt;" in page


def test_the_page_says_what_fell_and_when():
    page = render(RESULTS, title="a", configuration="")
    assert "was best at step 10 and lies below that from step 20 on" in page
    assert page.count("<svg") == 2 + 2, "reward against cost and rate, both sides of ascent"
    assert "b: not finite" in page


def test_the_tables_name_rates_gains_and_falls():
    (row,) = training_rows(RESULTS)
    assert row["rate"] == "0.0001" and row["best"] == "75%"
    assert row["reward gained"] == "+0.10 [+0.05, +0.15]"
    assert row["against the best other"] == "\u22120.020 [\u22120.040, +0.010]"
    assert row["fell"] == "1 of 1, from step 20"
    assert "parts.x gained" not in row
    step, failed = ascent_rows(RESULTS)
    assert step["gain on others"] == "+0.10 [+0.05, +0.15]" and step["survives"] == "100%"
    assert step["at change"] == "1.0e-04" and step["norms"] == "×20"
    assert failed == {"method": "b", "step": "diverged"}
    firsts = [line.split()[0] for line in study_table(RESULTS).splitlines() if line]
    assert firsts.count("<b>") == 2 and firsts.count("b") == 1


def test_each_method_is_set_against_each_other():
    ahead = Gain(0.02, 0.01, 0.03)
    one, two = (
        attrs.evolve(method(name), standings={"reward": Standing(UP, {rival: gain}, 0.5)})
        for name, rival, gain in (("a", "b", ahead), ("b", "a", BEHIND))
    )
    results = attrs.evolve(RESULTS, methods=(one, two))
    assert pair_rows(results, "reward") == [
        {"method": "a", "a": "-", "b": "+0.020 [+0.010, +0.030] *"},
        {"method": "b", "a": "\u22120.020 [\u22120.040, +0.010]", "b": "-"},
    ]
    assert "Each method minus each other: reward" in render(results, title="a", configuration="")
    assert "each method minus each other" in study_table(results)
    assert pair_rows(RESULTS, "reward") == [], "one method has no other"


def test_one_draw_has_no_interval():
    assert gain_text(Gain(0.5, 0.5, 0.5)) == "+0.500" and gain_text(Gain(0, 0, 0)) == "0"
    assert gain_text(Gain(*[float("nan")] * 3)) == "-"


def test_a_rate_at_the_end_of_those_tried_is_marked():
    end = Results(methods=(attrs.evolve(RESULTS.methods[0], best=2),), before={"reward": 0.5})
    assert training_rows(end)[0]["rate"] == "0.001!"
    assert "try more beyond it" in study_table(end)


def test_a_method_that_diverged_everywhere_is_named():
    rates = RESULTS.methods[0].rates[2:]
    lost = attrs.evolve(RESULTS.methods[0], best=None, standings={}, rates=rates)
    results = attrs.evolve(RESULTS, methods=(lost,))
    page = render(results, title="a", configuration="")
    assert "diverged at every rate: overflow" in page
    assert training_rows(results)[0]["fell"] == "0 of 1, 1 diverged"


def test_csv_and_json_hold_the_numbers():
    first, second = csv.DictReader(io.StringIO(methods_csv(RESULTS)))
    assert float(first["standings.reward.gain.low"]) == 0.05 and float(first["rate"]) == 1e-4
    assert float(first["ascent.directions.adam.gain.mean"]) == 0.1
    assert second["label"] == "b" and second["standings.reward.gain.low"] == ""
    tree = json.loads(results_json(RESULTS))
    assert tree["methods"][0]["standings"]["reward"]["best"] == 0.75
    nan = attrs.evolve(RESULTS, before={"reward": float("nan")})
    assert json.loads(results_json(nan))["before"]["reward"] is None


def test_rank_correlation():
    assert spearman([1, 2, 3, 4], [10, 20, 30, 35]) == pytest.approx(1)
    assert spearman([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)
    assert spearman([1, 1, 1], [1, 2, 3]) == 0
    # Ties share a rank: 1.5, 1.5, 3 against 1, 2, 3.
    assert spearman([5, 5, 9], [1, 2, 3]) == pytest.approx(0.8660254)


def test_predictors_go_with_the_gain_of_training():
    gains = [0.1, 0.2, 0.3, 0.4]
    ascents = [method(gain=Gain(gain, 0, 1)).ascent for gain in gains]
    found = predictors(ascents, gains)
    assert found["adam: gain on others"] == pytest.approx(1) and found["agreement"] == 0
    assert predictors(ascents[:3], gains[:3]) == {}
