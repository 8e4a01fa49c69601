"""Curves of a run as inline SVG.

Written by hand: drawn by matplotlib, a page of a run has no dark mode and no fonts of its own, and
needs 60 MB more to be installed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from markupsafe import Markup

from flowbp.significant_digits import Precision, precision, written

_WIDTH, _HEIGHT = 400, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 392, 8, 162
_SMOOTHED_FROM = 20
_NOTES = {
    "Reward": "Mean over the samples of a step.",
    "Loss": "What is minimised: minus the reward, through the loss shape if there is one. "
    "LeapAlign and Lagrange also weight samples by their residuals: under them its size says "
    "nothing about the reward.",
    "Gradient norm": "Before clipping.",
    "Residual per segment": "How far the surrogate's segments land from the sampled path: mean "
    "absolute difference of latents. It varies with the surrogate that each step draws.",
    "Distance to the reference": "The anchor's penalty, strength included.",
}

Point = tuple[float, float]
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
    # Of a surrogate that follows the path there are none.
    residuals = residuals if any(row.get(key) for row in metrics for key in residuals) else []
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
    """Draw curves over a common axis of steps; long ones also as their trailing mean."""
    finite = [point for c in curves for point in c.points if math.isfinite(point[1])]
    if not finite:
        raise ValueError(f"`curves` of {title!r} have no finite value; leave the chart out")
    first, last = (choose(step for step, _ in finite) for choose in (min, max))
    across, up = Axis(first, max(last, first + 1)), axis_for([value for _, value in finite])
    longest = max(len(c.points) for c in curves)
    window, smooth = longest // 12, longest >= _SMOOTHED_FROM
    thin = " thin" if smooth else ""
    parts = [path(c, across, up, f"curve-{i}{thin}") for i, c in enumerate(curves)]
    if smooth:
        means = [trailing_mean(c, window) for c in curves]
        parts += [path(c, across, up, f"curve-{i}") for i, c in enumerate(means)]
        note += f" Thick line: mean of the last {window} rows." if window > 1 else ""
    drawn = picture(f"{title}, from step {first:g} to {last:g}", across, up, "step", parts)
    return Chart(title, drawn, tuple(c.name for c in curves), note.strip())


@attrs.frozen
class Axis:
    """A scale from `low` to `high`; on a logarithmic one equal ratios have equal lengths."""

    low: float
    high: float
    logarithmic: bool = False

    def position(self, value: float) -> float:
        """Where a value lies, 0 at `low` and 1 at `high`."""
        if self.logarithmic:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[tuple[float, str]]:
        """Round values with their labels; of many powers of ten an even choice."""
        if self.logarithmic:
            first, last = math.ceil(math.log10(self.low)), math.floor(math.log10(self.high))
            stride = max(1, math.ceil((last - first + 1) / 5))
            return [(10.0**i, written(10.0**i, 1)) for i in range(first, last + 1, stride)]
        rough = (self.high - self.low) / 6
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * (1 - 1e-9))
        # A step of 2.5 needs one digit more than its power of ten has.
        digits = max(0, -math.floor(math.log10(power)) + (step == 2.5 * power))
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        values = [i * step for i in range(first, last + 1)]
        shared = Precision(digits, precision(values, 1).power)
        return [(value, shared.plain(value)) for value in values]


def axis_for(values: Sequence[float]) -> Axis:
    """The axis that shows these values best: logarithmic where they span over two decades."""
    low, high = min(values), max(values)
    if low > 0 and high / low > 100:
        ends = math.floor(math.log10(low)), math.ceil(math.log10(high))
        return Axis(10.0 ** ends[0], 10.0 ** ends[1], logarithmic=True)
    room = 0.06 * (high - low) or 0.5 * abs(high) or 1.0
    return Axis(low - room if low < 0 or low > room else 0.0, high + room)


def _x(across: Axis, value: float) -> float:
    return _LEFT + across.position(value) * (_RIGHT - _LEFT)


def _y(up: Axis, value: float) -> float:
    return _BOTTOM - up.position(value) * (_BOTTOM - _TOP)


def picture(title: str, across: Axis, up: Axis, name: str, lines: Sequence[Markup]) -> Markup:
    """Lines over a grid with the values up, and the values of what `name` says below it."""
    parts = [Markup("<title>{}</title>").format(title)]
    line = Markup('<line class="grid" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>')
    for value, label in up.ticks():
        y = _y(up, value)
        parts.append(line.format(_LEFT, _RIGHT, y, y))
        parts.append(_text(_LEFT - 6, y + 3.5, label, "end"))
    parts += [_text(_x(across, v), _BOTTOM + 15, label, "middle") for v, label in across.ticks()]
    parts.append(_text((_LEFT + _RIGHT) / 2, _HEIGHT - 1, name, "middle"))
    svg = Markup('<svg viewBox="0 0 {} {}" role="img">{}</svg>')
    return svg.format(_WIDTH, _HEIGHT, Markup("").join((*parts, *lines)))


def _text(x: float, y: float, content: str, anchor: str) -> Markup:
    element = Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>')
    return element.format(x, y, anchor, content)


def path(values: Curve, across: Axis, up: Axis, style: str) -> Markup:
    """A line through the points, with a gap where a value is not finite."""
    moves = []
    for finite, chosen in itertools.groupby(values.points, lambda point: math.isfinite(point[1])):
        if finite:
            places = [f"{_x(across, x):.1f} {_y(up, y):.1f}" for x, y in chosen]
            # A lone point draws nothing; a line of length 0 with round caps is a dot.
            moves.append("M" + "L".join(places if len(places) > 1 else places * 2))
    return Markup('<path class="{}" d="{}"/>').format(style, "".join(moves))


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
    """The reward on training and held-out prompts, and every held-out metric against the reward."""
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
    low, width = min(numbers), (max(numbers) - min(numbers)) or 1.0
    points = tuple((step, (value - low) / width) for step, value in values.points)
    return Curve(values.name, points)


def _ends(values: Curve) -> str:
    return f"{values.name} {written(values.points[0][1])} → {written(values.points[-1][1])}"


def _words(name: str) -> str:
    return name[:1].upper() + name[1:]
