from __future__ import annotations

from flowbp.evaluation import ScoreRow, Scores
from flowbp.evaluation.number_format import Unit, finer, level_precision, unit_of
from flowbp.evaluation.statistics import Change, Gain
from flowbp.significant_digits import Precision

SMALL = Change(0.29134, 0.29255, Gain(0.00121, 0.00107, 0.00136))


def test_shares_have_one_place_and_other_numbers_their_precision():
    assert Unit(percent=True).plain(0.5) == "50.0 %"
    assert Unit(precision=Precision(places=3)).plain(-0.5) == "−0.500"


def test_a_change_is_as_fine_as_its_interval():
    written = Unit().change(SMALL)
    assert (written.before, written.after) == ("0.29134", "0.29255")
    assert written.interval == "+0.00121 [+0.00107, +0.00136]"
    assert finer(Unit(), [SMALL]).plain(0.29134) == "0.29134"
    change = Change(20.5, 20.7, Gain(0.2, 0.15, 0.26))
    assert level_precision([20.5], [change]) == Precision(places=2, power=0)


def test_a_column_of_one_number_has_three_digits():
    row = ScoreRow(model="base", number=0, seed=0, prompt="a", kind="k", values={"r": 20.5})
    assert unit_of(Scores([row]), "r").plain(20.5) == "20.5"
