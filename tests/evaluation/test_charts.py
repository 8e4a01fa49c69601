from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree

import pytest

from flowbp.evaluation.charts import Axis, Curve, axis_for, draw, trailing_mean, training_charts

from .samples import metrics


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 1.0), (0.26, 0.34), (-3.0, 7.0), (1e-5, 9e-5), (120.0, 123.0), (0, 149)]
)
def test_linear_ticks_are_few_distinct_and_inside(low: float, high: float) -> None:
    ticks = Axis(low, high).ticks()
    assert 3 <= len(ticks) <= 8
    assert all(low - 1e-9 <= value <= high + 1e-9 for value, _ in ticks)
    labels = [float(label.replace("−", "-")) for _, label in ticks]
    assert labels == pytest.approx([value for value, _ in ticks])
    assert len({label for _, label in ticks}) == len(ticks)


def test_axes_place_values() -> None:
    assert Axis(2.0, 4.0).position(3.5) == 0.75
    assert Axis(0.01, 100.0, logarithmic=True).position(10.0) == pytest.approx(0.75)
    assert [label for _, label in Axis(1e-9, 1e6, logarithmic=True).ticks()] == [
        "1e−9",
        "1e−5",
        "0.1",
        "1000",
    ]


def test_the_axis_suits_the_values() -> None:
    assert axis_for([0.01, 2.0]).logarithmic
    assert not axis_for([0.0, 2.0]).logarithmic
    for values in ([3.0], [0.0, 0.0], [-1.0], [-2.0, 5.0], [0.5, 0.6]):
        axis = axis_for(values)
        assert all(0 <= axis.position(value) <= 1 for value in values)


def test_charts_of_a_run() -> None:
    charts = training_charts(metrics(60))
    assert [chart.title for chart in charts] == [
        "Reward",
        "Loss",
        "Gradient norm",
        "Residual per segment",
    ]
    assert charts[3].names == ("residual_0", "residual_1")
    assert charts[2].note.startswith("Before clipping. ")
    for chart in charts:
        root = ElementTree.fromstring(str(chart.svg))
        assert root.find("title").text == f"{chart.title}, from step 0 to 59"
        assert len(root.findall("path")) == 2 * len(chart.names)
        assert "nan" not in chart.svg
        assert chart.note.endswith(". Thick line: mean of the last 5 rows.")


def test_there_is_no_chart_of_residuals_that_are_all_0() -> None:
    rows = [{**row, "residual_0": 0.0, "residual_1": None} for row in metrics(60)]
    assert "Residual per segment" not in [chart.title for chart in training_charts(rows)]


def test_missing_keys_leave_charts_out() -> None:
    assert training_charts([]) == ()
    assert training_charts([{"step": 0, "reward": None, "seconds": 1.0}, {"loss": 0.5}]) == ()
    assert training_charts([{"step": 0, "loss": math.nan}]) == ()


def test_a_value_that_is_not_finite_leaves_a_gap() -> None:
    chart = draw("Loss", [Curve("loss", ((0, 1.0), (1, 2.0), (2, math.inf), (3, 1.0)))])
    path = re.search(r' d="([^"]+)"', chart.svg).group(1)
    assert path.count("M") == 2
    assert chart.note == ""
    with pytest.raises(ValueError, match="`curves` of 'Loss' have no finite value"):
        draw("Loss", [Curve("loss", ((0, math.nan),))])


def test_points_lie_inside_the_drawing() -> None:
    svg = draw("Loss", [Curve("loss", tuple((i, math.sin(i)) for i in range(50)))]).svg
    for path in re.findall(r' d="([^"]+)"', svg):
        points = [tuple(map(float, p.split())) for p in re.split("[ML]", path) if p]
        assert len(points) == 50
        assert all(0 <= x <= 400 and 0 <= y <= 190 for x, y in points)


def test_titles_are_escaped() -> None:
    assert "<script>" not in draw("<script>", [Curve("loss", ((0, 1.0),))]).svg


def test_trailing_mean_skips_what_is_not_finite() -> None:
    smoothed = trailing_mean(Curve("loss", ((0, 1.0), (1, math.nan), (2, 3.0))), 2).points
    assert smoothed == ((0, 1.0), (1, 1.0), (2, 3.0))
    assert math.isnan(trailing_mean(Curve("loss", ((0, math.nan),)), 2).points[0][1])
