"""The picture of the methods shows what their surrogates say, and so does its page."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from flowbp import core
from flowbp.core import Segment, adams_bashforth
from tools.method_pictures import (
    METHODS,
    SIGMAS,
    STEPS,
    cost_of,
    hops,
    joints,
    main,
    picture,
    shares,
    surrogate_of,
)

DOCS = Path(__file__).parents[2] / "docs"
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def made():
    return picture()


def ids_of(svg):
    found = [each.get("id", "") for each in ElementTree.fromstring(svg).iter(f"{SVG}g")]
    return [each for each in found if re.match(r"row\d|key", each)]


def words_of(svg):
    return [each.text for each in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def marked(svg, row, kind):
    """The steps of a row with marks of a kind."""
    found = (re.fullmatch(rf"row{row}-{kind}-(\d+)", each) for each in ids_of(svg))
    return sorted(int(each[1]) for each in found if each)


def test_names_are_the_expressions_of_all_methods():
    for name, method in METHODS.items():
        assert eval(name, vars(core)) == method
    shown = {type(method).__name__ for method in METHODS.values()}
    methods = set(vars(core.methods)["__all__"])
    assert shown == methods - {"Activated", "Method", "Scaled", "draw_surrogate"}


@pytest.mark.parametrize("row, name", list(enumerate(METHODS)), ids=list(METHODS))
def test_a_row_shows_its_surrogate(made, row, name):
    surrogate = surrogate_of(METHODS[name])
    supports = {i for segment in surrogate.segments for i in segment.weights}
    assert marked(made, row, "active") == surrogate.active_steps
    assert marked(made, row, "support") == sorted(supports - set(surrogate.active_steps))
    # Each velocity of the rollout has one mark.
    assert set(marked(made, row, "step")) == set(range(surrogate.horizon)) - supports
    kept = [each.start for each in surrogate.segments[1:] if surrogate.alpha]
    assert marked(made, row, "joint") == kept
    assert ids_of(made).count(f"row{row}-read") == 1
    assert len(marked(made, row, "copy[0-9]+")) == surrogate.noised
    arcs = [each for each in ids_of(made) if each.startswith(f"row{row}-arc-")]
    assert len(arcs) == sum(len(list(hops(each))) for each in surrogate.segments)
    often = shares(METHODS[name])
    assert marked(made, row, "share") == [i for i in range(STEPS) if often[i]]
    assert all(often[i] for i in surrogate.active_steps)


def test_an_euler_segment_has_an_arc_for_each_support_and_any_other_has_one():
    euler = Segment(2, 6, core.euler(SIGMAS, 2, 6, (2, 5)), {5: 1.0})
    assert list(hops(euler)) == [(2, 5, False), (5, 6, True)]
    lagrange = Segment(2, 6, core.lagrange(SIGMAS, 2, 6, (2, 5)), {5: 1.0})
    behind = Segment(2, 6, adams_bashforth(SIGMAS, 2, 6, order=2), {2: 1.0})
    assert list(hops(lagrange)) == list(hops(behind)) == [(2, 6, True)]


def test_the_documentation_has_the_picture_of_these_methods(made):
    stored = (DOCS / "methods.svg").read_text()
    assert ids_of(stored) == ids_of(made), "run python -m tools.method_pictures docs/methods.svg"
    assert words_of(stored) == words_of(made)


def test_the_page_states_each_methods_cost_and_jacobians():
    rows = re.findall(
        r"^\| `(.*?)` \| .*? \| (.*?) \| (.*?) \|", (DOCS / "choosing.md").read_text(), re.M
    )
    stated = {name: (kept.split(",")[0], cost) for name, kept, cost in rows if "(" in name}
    assert list(stated) == [name for name in METHODS if not name.startswith("Variant")]
    for name, found in stated.items():
        drawn = [surrogate_of(METHODS[name], seed) for seed in range(100)]
        costs = [cost_of(each) for each in drawn]
        calls = span(each.forward for each in costs)
        pulls = span(each.backward for each in costs)
        assert found == (str(max(len(joints(each)) for each in drawn)), f"{calls} + {pulls}"), name


def span(values):
    found = sorted(set(values))
    return str(found[0]) if len(found) == 1 else f"{found[0]}–{found[-1]}"


def test_the_command_writes_the_picture(tmp_path, monkeypatch, made):
    out = tmp_path / "methods.svg"
    monkeypatch.setattr(sys, "argv", ["x", str(out)])
    main()
    assert out.read_text() == made
