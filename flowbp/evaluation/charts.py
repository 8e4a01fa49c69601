"""Curves of a run as inline SVG."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from markupsafe import Markup

from flowbp.evaluation.svg import LinearAxis, Plot, Point, axis_for
from flowbp.significant_digits import written

_SIZE = {"width": 400.0, "height": 190.0}
_SIDES = {"left": 44.0, "right": 392.0, "top": 8.0, "bottom": 162.0}
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


Rows = Sequence[Mapping[str, Any]]


@attrs.frozen
class Curve:
    """One line of a chart."""

    name: str
    points: tuple[Point, ...]


@attrs.frozen
class Chart:
    """A drawn chart with the words that go around it."""

    title: str
    svg: Markup
    names: tuple[str, ...]
    note: str


def curve(metrics: Rows, key: str) -> Curve:
    """The values that the rows of `metrics` have under `key`, over their `step`."""
    rows = [row for row in metrics if row.get("step") is not None and row.get(key) is not None]
    return Curve(key, tuple((float(row["step"]), float(row[key])) for row in rows))


def training_charts(metrics: Rows) -> tuple[Chart, ...]:
    """The charts of a run: reward and its parts, loss, gradient norm, residuals and anchor."""
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
    """
    finite = [point for c in curves for point in c.points if math.isfinite(point[1])]
    if not finite:
        raise ValueError(f"`curves` of {title!r} have no finite value; leave the chart out")
    steps = [step for step, _ in finite]
    across = LinearAxis(min(steps), max(max(steps), min(steps) + 1))
    up = axis_for([value for _, value in finite])
    plot = Plot(**_SIZE, **_SIDES, across=across, up=up)
    longest = max(len(c.points) for c in curves)
    window, smooth = longest // 12, longest >= _SMOOTHED_FROM
    thin = " thin" if smooth else ""
    lines = [plot.line(c.points, f"curve-{i}{thin}") for i, c in enumerate(curves)]
    if smooth:
        means = (trailing_mean(c, window) for c in curves)
        lines += [plot.line(c.points, f"curve-{i}") for i, c in enumerate(means)]
    thick = f"Thick line: mean of the last {window} rows." if smooth and window > 1 else ""
    label = f"{title}, from step {min(steps):g} to {max(steps):g}"
    svg = plot.drawing(label, [plot.frame("step"), *lines])
    return Chart(title, svg, tuple(c.name for c in curves), f"{note} {thick}".strip())


def trailing_mean(values: Curve, window: int) -> Curve:
    """Replace every value by the mean of the finite ones among the last `window`."""
    smoothed = []
    for i, (step, _) in enumerate(values.points):
        recent = [v for _, v in values.points[max(0, i + 1 - window) : i + 1] if math.isfinite(v)]
        smoothed.append((step, math.fsum(recent) / len(recent) if recent else math.nan))
    return Curve(values.name, tuple(smoothed))


def held_out_charts(
    held_out: Rows, metrics: Rows = (), *, trained: str = "reward"
) -> tuple[Chart, ...]:
    """The reward on training and held-out prompts, and every held-out metric against the reward.

    Metrics of different units are drawn each over its own range, 0 its lowest value and 1 its
    highest, as only where they rise and fall together matters.
    """
    if len(held_out) < 2:
        return ()
    charts = []
    reward = curve(held_out, trained)
    if reward.points:
        between = _between(metrics, [step for step, _ in reward.points], trained)
        own = attrs.evolve(reward, name="held-out prompts")
        shown = [own, between] if between.points else [own]
        charts.append(draw(f"{_words(trained)} on held-out prompts", shown))
    for name in metrics_besides(held_out, trained):
        metric = curve(held_out, name)
        if reward.points and len(metric.points) > 1:
            chart = draw(f"{_words(name)} against {trained}", [_ranged(metric), _ranged(reward)])
            note = f"Each over its own range. {_ends(metric)}; {_ends(reward)}."
            charts.append(attrs.evolve(chart, note=note))
    return tuple(charts)


def metrics_besides(held_out: Rows, trained: str) -> tuple[str, ...]:
    """The held-out metrics that are neither the reward nor its parts."""
    names = dict.fromkeys(name for row in held_out for name in row)
    return tuple(n for n in names if n not in ("step", trained) and not n.startswith("parts."))


def _between(metrics: Rows, steps: Sequence[float], key: str) -> Curve:
    """The mean over the training steps since the evaluation before, at each evaluation."""
    points = []
    for before, step in itertools.pairwise(steps):
        values = [v for s, v in curve(metrics, key).points if before < s <= step]
        values = [value for value in values if math.isfinite(value)]
        if values:
            points.append((step, math.fsum(values) / len(values)))
    return Curve("training prompts", tuple(points))


def _ranged(values: Curve) -> Curve:
    numbers = [value for _, value in values.points]
    low, spread = min(numbers), (max(numbers) - min(numbers)) or 1.0
    return Curve(
        values.name, tuple((step, (value - low) / spread) for step, value in values.points)
    )


def _ends(values: Curve) -> str:
    return f"{values.name} {written(values.points[0][1])} → {written(values.points[-1][1])}"


def _words(name: str) -> str:
    return name[:1].upper() + name[1:]
