"""Curves of a training run as inline SVG."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from markupsafe import Markup, escape

from flowbp.evaluation.axes import Axis, LinearAxis, axis_for

Point = tuple[float, float]

_WIDTH, _HEIGHT = 400.0, 190.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 44.0, 392.0, 8.0, 162.0
_SMOOTHED_FROM = 20
_NOTES = {
    "Reward": "Mean over the samples of a step.",
    "Loss": "What is minimised: minus the reward, through the loss shape if there is one. "
    "LeapAlign and Lagrange also weigh samples by their residuals: under them its size says "
    "nothing of the reward.",
    "Gradient norm": "Before clipping.",
    "Residual per segment": "How far the surrogate's segments land from the sampled path: mean "
    "absolute difference of latents. It varies with the plan that each step draws.",
    "Distance to the reference": "The anchor's penalty, strength included.",
}


@attrs.frozen
class Curve:
    """One line of a chart.

    Args:
        name: what it shows.
        points: ``(step, value)``, in order of step; a value that is not finite leaves a gap.

    Example:
        >>> Curve("reward", ((0, 0.1), (1, 0.2))).points[1]
        (1, 0.2)
    """

    name: str
    points: tuple[Point, ...]


@attrs.frozen
class Chart:
    """A drawn chart with the words that go around it.

    Args:
        title: what it shows.
        svg: the drawing.
        names: the names of its curves, in the order of their colours.
        note: how to read the lines; empty when they need no explanation.

    Example:
        >>> Chart("reward", Markup("<svg></svg>"), ("reward",), "").title
        'reward'
    """

    title: str
    svg: Markup
    names: tuple[str, ...]
    note: str


def curve(metrics: Sequence[Mapping[str, Any]], key: str) -> Curve:
    """The values that the rows of `metrics` have under `key`, over their `step`.

    Args:
        metrics: rows of a run's metrics; rows without `step` or `key` are left out.
        key: which value to take.

    Returns:
        The curve, named `key`; perhaps without a point.

    Example:
        >>> curve([{"step": 0, "loss": 0.5}, {"step": 1}], "loss").points
        ((0.0, 0.5),)
    """
    rows = [row for row in metrics if row.get("step") is not None and row.get(key) is not None]
    return Curve(key, tuple((float(row["step"]), float(row[key])) for row in rows))


def training_charts(metrics: Sequence[Mapping[str, Any]]) -> tuple[Chart, ...]:
    """The charts of a run: reward and its parts, loss, gradient norm, residuals and anchor.

    Args:
        metrics: rows with `step` and any of `reward`, `loss`, `gradient_norm`, `residual_0`,
            `residual_1`, …, `anchor`, `parts.likeness.normalised`, ….

    Returns:
        One chart for each quantity that has a finite value.

    Example:
        >>> [chart.title for chart in training_charts([{"step": 0, "reward": 0.1, "loss": 0.5}])]
        ['Reward', 'Loss']
    """
    keys = {key: None for row in metrics for key in row}
    residuals = sorted(key for key in keys if key.startswith("residual_"))
    wanted = {
        "Reward": ["reward"],
        # A chart each, as the colours of one chart are few and a reward's parts may be many.
        **{
            f"Part {key.removeprefix('parts.')}": [key]
            for key in keys
            if key.startswith("parts.") and key.endswith(".normalised")
        },
        "Loss": ["loss"],
        "Gradient norm": ["gradient_norm"],
        "Residual per segment": residuals,
        "Distance to the reference": ["anchor"],
    }
    charts = []
    for title, chosen in wanted.items():
        curves = [curve(metrics, key) for key in chosen]
        shown = [c for c in curves if any(math.isfinite(value) for _, value in c.points)]
        if shown:
            charts.append(draw(title, shown, note=_NOTES.get(title, "")))
    return tuple(charts)


def draw(title: str, curves: Sequence[Curve], *, note: str = "") -> Chart:
    """Draw curves over a common axis of steps.

    Long curves are drawn twice: thin as they are, and thick as their trailing mean.

    Args:
        title: what the chart shows; read out to those who cannot see it.
        curves: at least one, with a finite value between them.
        note: what is shown, in a sentence or two; how the lines are to be read is added.

    Returns:
        The chart; its colours come from the classes `curve-0`, `curve-1`, … of the page's style.

    Raises:
        ValueError: when there is nothing to draw.

    Example:
        >>> draw("Loss", [Curve("loss", ((0, 0.5), (1, 0.25)))]).svg.count("<path")
        1
    """
    finite = [point for c in curves for point in c.points if math.isfinite(point[1])]
    if not finite:
        raise ValueError(f"`curves` of {title!r} have no finite value; leave the chart out")
    steps = [step for step, _ in finite]
    across = LinearAxis(min(steps), max(max(steps), min(steps) + 1))
    up = axis_for([value for _, value in finite])
    window = max(len(c.points) for c in curves) // 12
    smooth = max(len(c.points) for c in curves) >= _SMOOTHED_FROM
    lines = [
        _line(c, f"curve-{i}{' thin' if smooth else ''}", across, up) for i, c in enumerate(curves)
    ]
    if smooth:
        lines += [
            _line(trailing_mean(c, window), f"curve-{i}", across, up) for i, c in enumerate(curves)
        ]
    thick = f"Thick line: mean of the last {window} rows." if smooth and window > 1 else ""
    parts = Markup("").join([_frame(across, up), *lines])
    label = Markup("{}, from step {:g} to {:g}").format(title, min(steps), max(steps))
    svg = Markup('<svg viewBox="0 0 {:g} {:g}" role="img"><title>{}</title>{}</svg>').format(
        _WIDTH, _HEIGHT, label, parts
    )
    return Chart(title, svg, tuple(c.name for c in curves), f"{note} {thick}".strip())


def trailing_mean(values: Curve, window: int) -> Curve:
    """Replace every value by the mean of the finite ones among the last `window`.

    Args:
        values: the curve.
        window: how many rows to look back, the present one included; below 1 counts as 1.

    Returns:
        The smoothed curve; where no value is finite it keeps its gap.

    Example:
        >>> trailing_mean(Curve("loss", ((0, 1.0), (1, 3.0), (2, 5.0))), 2).points
        ((0, 1.0), (1, 2.0), (2, 4.0))
    """
    smoothed = []
    for i, (step, _) in enumerate(values.points):
        recent = [v for _, v in values.points[max(0, i + 1 - window) : i + 1] if math.isfinite(v)]
        smoothed.append((step, math.fsum(recent) / len(recent) if recent else math.nan))
    return Curve(values.name, tuple(smoothed))


def _frame(across: Axis, up: Axis) -> Markup:
    parts = []
    for value, label in up.ticks():
        y = _y(up, value)
        parts.append(
            Markup('<line class="grid" x1="{:g}" x2="{:g}" y1="{:.1f}" y2="{:.1f}"/>').format(
                _LEFT, _RIGHT, y, y
            )
        )
        parts.append(_text(_LEFT - 6, y + 3.5, "end", label))
    for value, label in across.ticks():
        parts.append(_text(_x(across, value), _BOTTOM + 15, "middle", label))
    parts.append(_text((_LEFT + _RIGHT) / 2, _HEIGHT - 1, "middle", "step"))
    return Markup("").join(parts)


def _text(x: float, y: float, anchor: str, content: str) -> Markup:
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(
        x, y, anchor, content
    )


def _line(values: Curve, style: str, across: Axis, up: Axis) -> Markup:
    moves = []
    for finite, points in itertools.groupby(values.points, lambda point: math.isfinite(point[1])):
        if finite:
            places = [f"{_x(across, step):.1f} {_y(up, value):.1f}" for step, value in points]
            # A lone point draws nothing; a line of length 0 with round caps is a dot.
            moves.append("M" + "L".join(places if len(places) > 1 else places * 2))
    return Markup('<path class="{}" d="{}"/>').format(escape(style), "".join(moves))


def _x(across: Axis, step: float) -> float:
    return _LEFT + across.position(step) * (_RIGHT - _LEFT)


def _y(up: Axis, value: float) -> float:
    return _BOTTOM - up.position(value) * (_BOTTOM - _TOP)
