"""Relations of boxes against exact fractions, and a table of scenes drawn by hand."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowbp.geneval import RELATIONS, relations


def exact(box, other):
    """The definition in exact numbers: squares in place of the root, a case for each relation."""
    half = Fraction(1, 2)
    o_x = half * (box[0] + box[2] - other[0] - other[2])
    o_y = half * (box[1] + box[3] - other[1] - other[3])
    slack_x = Fraction(box[2] - box[0] + other[2] - other[0], 10)
    slack_y = Fraction(box[3] - box[1] + other[3] - other[1], 10)
    r_x, r_y = max(abs(o_x) - slack_x, 0), max(abs(o_y) - slack_y, 0)
    if max(r_x, r_y) < Fraction(1, 1000):
        return set()
    square = o_x**2 + o_y**2
    found = set()
    if 4 * r_x**2 > square:
        found.add("left of" if o_x < 0 else "right of")
    if 4 * r_y**2 > square:
        found.add("above" if o_y < 0 else "below")
    return found


@st.composite
def boxes(draw):
    left, top = draw(st.integers(0, 600)), draw(st.integers(0, 600))
    return left, top, left + draw(st.integers(1, 500)), top + draw(st.integers(1, 500))


@given(boxes(), boxes())
def test_relations_are_those_of_exact_arithmetic(box, other):
    assert relations(box, other) == exact(box, other)


@given(boxes(), boxes())
def test_relations_are_mirrored_when_the_objects_change_places(box, other):
    opposite = dict(zip(RELATIONS, ("right of", "left of", "below", "above"), strict=True))
    assert relations(other, box) == {opposite[relation] for relation in relations(box, other)}


@given(boxes(), boxes(), st.integers(-50, 50), st.integers(-50, 50))
def test_relations_do_not_depend_on_where_the_pair_is(box, other, x, y):
    def moved(each):
        return each[0] + x, each[1] + y, each[2] + x, each[3] + y

    assert relations(moved(box), moved(other)) == relations(box, other)


@pytest.mark.parametrize(
    ("box", "other", "held"),
    [
        ((0, 0, 10, 10), (100, 0, 110, 10), {"left of"}),
        ((100, 0, 110, 10), (0, 0, 10, 10), {"right of"}),
        ((0, 0, 10, 10), (0, 100, 10, 110), {"above"}),
        ((0, 100, 10, 110), (0, 0, 10, 10), {"below"}),
        ((0, 100, 10, 110), (100, 0, 110, 10), {"left of", "below"}),
        # One around the other, or the same place.
        ((40, 40, 60, 60), (0, 0, 100, 100), set()),
        ((0, 0, 10, 10), (0, 0, 10, 10), set()),
        # The centres differ by exactly a tenth of both widths: within the slack.
        ((0, 0, 100, 10), (20, 0, 120, 10), set()),
        ((0, 0, 100, 10), (40, 0, 140, 10), set()),
        ((0, 0, 100, 10), (41, 0, 141, 10), {"left of"}),
        # 60 degrees off the vertical is the border of both; slack takes it away.
        ((0, 0, 10, 10), (50, 30, 60, 40), {"left of"}),
        ((0, 0, 10, 10), (50, 50, 60, 60), {"left of", "above"}),
    ],
)
def test_a_table_of_scenes(box, other, held):
    assert relations(box, other) == held
