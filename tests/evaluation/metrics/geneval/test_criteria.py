"""The criteria of the six tasks: scenes drawn by hand, and random ones against direct rules."""

from __future__ import annotations

from fractions import Fraction

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowbp.evaluation.metrics.geneval.criteria import (
    Detection,
    failures,
    relations,
    select,
    threshold,
)
from flowbp.evaluation.metrics.geneval.task import RELATIONS, Task, Wanted

LEFT, MIDDLE, RIGHT = (0, 0, 10, 10), (50, 0, 60, 10), (100, 0, 110, 10)
NAMES = ("dog", "cat", "bench")
PAINT = ("red", "blue")


@attrs.frozen(eq=False)
class Painted(Detection):
    """A detection that knows its colour."""

    colour: str = "red"


def painted(name, score, box=LEFT, colour="red"):
    return Painted(name, score, box, colour=colour)


def passes(task, detections):
    scene = select(detections, above=threshold(task.kind))
    return not failures(task, scene, colour_of=lambda found: found.colour)


ONE = Task("p", "single_object", [Wanted("dog", 1)])
TWO = Task("p", "two_object", [Wanted("dog", 1), Wanted("cat", 1)])
THREE = Task("p", "counting", [Wanted("dog", 3)], [Wanted("dog", 4)])
RED = Task("p", "colors", [Wanted("dog", 1, "red")])
BESIDE = Task("p", "position", [Wanted("cat", 1), Wanted("dog", 1, position=("left of", 0))])
BOTH = Task("p", "color_attr", [Wanted("dog", 1, "red"), Wanted("cat", 1, "blue")])


@pytest.mark.parametrize(
    ("task", "scene", "passed"),
    [
        (ONE, [], False),
        (ONE, [painted("dog", 0.31)], True),
        (ONE, [painted("dog", 0.3)], False),
        (ONE, [painted("cat", 0.9)], False),
        (ONE, [painted("dog", 0.9), painted("dog", 0.8), painted("cat", 0.9)], True),
        (TWO, [painted("dog", 0.9)], False),
        (TWO, [painted("dog", 0.9), painted("cat", 0.4)], True),
        (TWO, [painted("dog", 0.9), painted("dog", 0.9)], False),
        (THREE, [painted("dog", 0.95)] * 3, True),
        (THREE, [painted("dog", 0.95)] * 2, False),
        (THREE, [painted("dog", 0.95)] * 4, False),
        (THREE, [painted("dog", 0.95)] * 2 + [painted("dog", 0.9)], False),
        (THREE, [painted("dog", 0.95)] * 3 + [painted("dog", 0.9)], True),
        (THREE, [painted("dog", 0.95)] * 3 + [painted("cat", 0.95)] * 5, True),
        (RED, [painted("dog", 0.9)], True),
        (RED, [painted("dog", 0.9, colour="blue")], False),
        # The surest one alone is asked.
        (RED, [painted("dog", 0.8), painted("dog", 0.9, colour="blue")], False),
        (RED, [painted("dog", 0.9), painted("dog", 0.8, colour="blue")], True),
        (BESIDE, [painted("dog", 0.9, LEFT), painted("cat", 0.9, RIGHT)], True),
        (BESIDE, [painted("dog", 0.9, RIGHT), painted("cat", 0.9, LEFT)], False),
        (BESIDE, [painted("dog", 0.9, LEFT)], False),
        (BESIDE, [painted("cat", 0.9, LEFT)], False),
        (
            BESIDE,
            [painted("dog", 0.9, LEFT), painted("dog", 0.8, RIGHT), painted("cat", 0.9, MIDDLE)],
            True,
        ),
        (
            BESIDE,
            [painted("dog", 0.8, LEFT), painted("dog", 0.9, RIGHT), painted("cat", 0.9, MIDDLE)],
            False,
        ),
        (BOTH, [painted("dog", 0.9, colour="red"), painted("cat", 0.9, colour="blue")], True),
        (BOTH, [painted("dog", 0.9, colour="blue"), painted("cat", 0.9, colour="red")], False),
        (BOTH, [painted("dog", 0.9, colour="red")], False),
    ],
)
def test_a_table_of_scenes(task, scene, passed):
    assert passes(task, scene) is passed
    # The detector's order says nothing.
    assert passes(task, scene[::-1]) is passed


def test_a_position_seen_from_what_failed_fails():
    task = Task(
        "p", "position", [Wanted("cat", 1, "blue"), Wanted("dog", 1, position=("left of", 0))]
    )
    scene = {"dog": (painted("dog", 0.9, LEFT),), "cat": (painted("cat", 0.9, RIGHT),)}
    reasons = failures(task, scene, colour_of=lambda found: found.colour)
    assert reasons == (
        "1 blue cat wanted, red found",
        "dog wanted left of what is not there itself",
    )


def test_all_of_several_are_held_to_colour_and_place():
    task = Task(
        "p", "position", [Wanted("cat", 2, "red"), Wanted("dog", 1, position=("left of", 0))]
    )
    cats = [painted("cat", 0.9, RIGHT), painted("cat", 0.8, MIDDLE)]
    assert passes(task, [*cats, painted("dog", 0.9, LEFT)])
    assert not passes(task, [*cats, painted("dog", 0.9, (75, 0, 85, 10))])
    assert not passes(task, [cats[0], painted("cat", 0.8, MIDDLE, "blue"), painted("dog", 0.9)])


@st.composite
def scenes(draw):
    place = st.integers(0, 100)
    count = draw(st.integers(0, 12))
    # No two alike, as the surest one is then not defined.
    scores = draw(st.lists(st.integers(1, 99), min_size=count, max_size=count, unique=True))
    found = []
    for score in scores:
        left, top = draw(place), draw(place)
        box = (left, top, left + 1 + draw(place), top + 1 + draw(place))
        name, colour = draw(st.sampled_from(NAMES)), draw(st.sampled_from(PAINT))
        found.append(painted(name, score / 100, box, colour))
    return found


def surest(scene, name, above=0.3):
    best = None
    for found in scene:
        if (
            found.name == name
            and found.score > above
            and (best is None or found.score > best.score)
        ):
            best = found
    return best


@given(scenes(), st.sampled_from(NAMES), st.sampled_from(NAMES))
def test_presence_is_that_of_the_surest(scene, first, second):
    one = Task("p", "single_object", [Wanted(first, 1)])
    assert passes(one, scene) is (surest(scene, first) is not None)
    two = Task("p", "two_object", [Wanted(first, 1), Wanted(second, 1)])
    wanted = surest(scene, first) is not None and surest(scene, second) is not None
    assert passes(two, scene) is wanted


@given(scenes(), st.sampled_from(NAMES), st.integers(1, 4))
def test_counting_counts(scene, name, count):
    scene = [painted(found.name, 0.88 + found.score / 8, found.box) for found in scene]
    task = Task("p", "counting", [Wanted(name, count)], [Wanted(name, count + 1)])
    there = len([found for found in scene if found.name == name and found.score > 0.9])
    assert passes(task, scene) is (there == count)


@given(scenes(), st.sampled_from(PAINT), st.sampled_from(PAINT))
def test_colours_are_those_of_the_surest(scene, first, second):
    dog, cat = surest(scene, "dog"), surest(scene, "cat")
    right = dog is not None and dog.colour == first
    assert passes(Task("p", "colors", [Wanted("dog", 1, first)]), scene) is right
    task = Task("p", "color_attr", [Wanted("dog", 1, first), Wanted("cat", 1, second)])
    assert passes(task, scene) is (right and cat is not None and cat.colour == second)


@given(scenes(), st.sampled_from(RELATIONS))
def test_positions_are_those_of_the_surest(scene, relation):
    dog, cat = surest(scene, "dog"), surest(scene, "cat")
    wanted = None not in (dog, cat) and relation in relations(dog.box, cat.box)
    task = Task("p", "position", [Wanted("cat", 1), Wanted("dog", 1, position=(relation, 0))])
    assert passes(task, scene) is wanted


@given(scenes(), st.integers(1, 4))
def test_selection_keeps_the_surest_of_each_class(scene, most):
    kept = select(scene, above=0.3, most=most)
    for name in NAMES:
        rest, wanted = [f for f in scene if f.name == name and f.score > 0.3], []
        while rest and len(wanted) < most:
            best = max(rest, key=lambda found: found.score)
            rest.remove(best)
            wanted.append(best)
        assert list(kept.get(name, ())) == wanted
        assert name not in kept or kept[name]


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
def test_a_table_of_boxes(box, other, held):
    assert relations(box, other) == held
