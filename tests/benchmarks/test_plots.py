"""The plots show what was measured, and what did not fit."""

from __future__ import annotations

import json
import sys
from functools import partial
from xml.etree import ElementTree

import pytest

from benchmarks.plots import PLOTS, Plot, Series, draw, drawn, main

SVG = "{http://www.w3.org/2000/svg}"


def table(heights, *, compiled, one_pass=False):
    """A sweep whose rows have these peaks of memory; None did not fit."""
    rows = [
        {
            "at": at,
            "fits": peak is not None,
            "compiled": compiled,
            "one_pass": one_pass,
            "peak_gib": peak,
            "seconds": [0.1 * at + 2] if peak is not None else [],
            "first_seconds": None,
        }
        for at, peak in heights.items()
    ]
    return {"environment": {"device": "NVIDIA <one>"}, "rows": rows}


def made_up():
    joint = partial(table, one_pass=True)
    return {
        "active": table(dict.fromkeys((1, 2, 5, 10, 15, 20, 25), 10.5), compiled=True),
        "joint_active": joint({2: 41.0, 5: 44.5, 10: 49.5, 20: 61.0, 25: None}, compiled=True),
        "batch": table({1: 3.0, 2: 5.4, 4: 9.0, 8: 18.0, 16: 18.1, 64: 18.9}, compiled=False),
        "joint_batch": joint({1: 8.0, 2: 14.0, 4: 24.0, 8: 44.5, 16: None}, compiled=False),
    }


STREAMED, JOINT = "#0969da", "#bc4c00"


def marks(text, color):
    """The places of the marks of a color."""
    uses = ElementTree.fromstring(text).iter(f"{SVG}use")
    own = [each for each in uses if f"stroke: {color}" in each.get("style", "")]
    return [(float(each.get("x")), float(each.get("y"))) for each in own]


def words_of(text):
    return [each.text for each in ElementTree.fromstring(text).iter(f"{SVG}text")]


def test_every_plot_has_its_points_and_says_what_did_not_fit():
    plots = drawn(made_up())
    assert set(plots) == set(PLOTS)
    text = plots["memory_active.svg"]
    words = words_of(text)
    # The legend has a mark of each line, and of what did not fit.
    assert len(marks(text, STREAMED)) == 7 + 1
    assert len(marks(text, JOINT)) == 4 + 1 + 1 + 1
    assert {"NVIDIA <one>", "streamed, compiled", "joint graph in one pass, compiled"} <= set(words)
    assert "out of memory" in words
    words = words_of(plots["memory_batch.svg"])
    assert {"1", "2", "4", "8", "16", "64"} <= set(words)


def test_what_was_not_measured_is_left_out():
    tables = made_up()
    plots = drawn({"active": tables["active"]})
    assert set(plots) == {"memory_active.svg", "time_active.svg"}
    assert "joint graph" not in plots["time_active.svg"]
    with pytest.raises(ValueError, match=r"`tables` must hold a sweep .* got \['method'\]"):
        drawn({"method": tables["active"]})


def test_times_are_compared_of_compiled_code_alone_and_memory_as_the_legend_says():
    tables = made_up()
    tables["joint_batch"] = table({8: 31.0}, compiled=True)
    words = words_of(drawn(tables)["memory_batch.svg"])
    assert {"streamed, not compiled", "joint graph, compiled"} <= set(words)
    tables["joint_active"] = table({2: 41.0}, compiled=False)
    with pytest.raises(ValueError, match=r"all compiled or all not compiled, got .*'joint_active'"):
        drawn(tables)


def test_a_graph_built_after_sampling_is_not_called_one_pass():
    words = words_of(drawn({"joint_batch": table({8: 31.7}, compiled=False)})["memory_batch.svg"])
    assert "joint graph, not compiled" in words


def test_a_higher_value_is_higher_up_and_equal_plots_are_equal_files():
    plot = Plot("Seconds", "K", {}, lambda row: None)
    line = Series("one", ((1, 1.0), (2, 3.0)))
    text = draw(plot, "here", [line])
    # The last is in the legend.
    (_, first), (_, last), _ = marks(text, STREAMED)
    assert first > last and "out of memory" not in words_of(text)
    assert draw(plot, "here", [line]) == text


def test_the_command_writes_the_files(tmp_path, monkeypatch):
    file = tmp_path / "reference.json"
    file.write_text(json.dumps(made_up()))
    monkeypatch.setattr(sys, "argv", ["plots", str(file), str(tmp_path)])
    main()
    assert {path.name for path in tmp_path.glob("*.svg")} == set(PLOTS)
