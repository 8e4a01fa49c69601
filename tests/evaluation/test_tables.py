from __future__ import annotations

from flowbp.evaluation import ScoreRow, Scores, counted, scores_table, table

from .samples import comparison


def test_numbers_of_things_agree_with_them():
    assert (counted(1, "prompt"), counted(2, "prompt")) == ("1 prompt", "2 prompts")


def test_the_table_of_scores():
    rows = [
        ScoreRow(model=model, number=0, seed=0, prompt="a", kind="k", values={"r": value})
        for model, value in (("base", 1.0), ("mine", 3.0))
    ]
    assert scores_table(Scores(rows)).splitlines() == [
        "column  model  mean  n  change from base, 95 % interval",
        "-" * 57,
        "r       base   1.00  1",
        "        mine   3.00  1  +2.00, of one prompt: no interval",
        "-" * 57,
        "n: prompts that a column judges; there are 1, and 1 picture of each model",
    ]


def test_the_table_of_a_comparison():
    assert table(comparison([(0.25, 0.25)])).splitlines() == [
        "kind           n         reward  gain",
        "-" * 37,
        "single_object  1  0.250 → 0.250     0",
        "-" * 37,
        "overall        1  0.250 → 0.250     0",
        "reward gain 0, 95 % interval [0, 0]",
    ]
