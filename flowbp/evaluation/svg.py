"""Line charts drawn as SVG: axes, and a plot's frame, labels and paths."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Protocol

import attrs
from markupsafe import Markup, escape

from flowbp.significant_digits import Precision, precision, written

Point = tuple[float, float]


class Axis(Protocol):
    """Places values on a line."""

    def position(self, value: float) -> float:
        """Where `value` lies, 0 at the axis' start and 1 at its end."""

    def ticks(self) -> tuple[tuple[float, str], ...]:
        """The marked values with their labels."""


@attrs.frozen
class LinearAxis:
    """An axis on which equal differences have equal lengths."""

    low: float
    high: float
    count: int = 6

    def __attrs_post_init__(self) -> None:
        _check_order(self.low, self.high)

    def position(self, value: float) -> float:
        """Where `value` lies, 0 at `low` and 1 at `high`."""
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> tuple[tuple[float, str], ...]:
        """Round values between `low` and `high`."""
        rough = (self.high - self.low) / self.count
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * (1 - 1e-9))
        # A step of 2.5 needs one digit more than its power of ten has.
        digits = max(0, -math.floor(math.log10(power)) + (step == 2.5 * power))
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        values = [i * step for i in range(first, last + 1)]
        size = max(map(abs, values), default=0.0)
        shared = Precision(digits, precision([size], 1).power)
        return tuple((value, shared.plain(value)) for value in values)


@attrs.frozen
class LogAxis:
    """An axis on which equal ratios have equal lengths."""

    low: float
    high: float

    def __attrs_post_init__(self) -> None:
        _check_order(self.low, self.high)
        if self.low <= 0:
            raise ValueError(f"`low` of a logarithmic axis must be above 0, got {self.low}")

    def position(self, value: float) -> float:
        """Where `value` lies, 0 at `low` and 1 at `high`."""
        return math.log(value / self.low) / math.log(self.high / self.low)

    def ticks(self) -> tuple[tuple[float, str], ...]:
        """The powers of ten between `low` and `high`; of many, an even choice."""
        first, last = math.ceil(math.log10(self.low)), math.floor(math.log10(self.high))
        stride = max(1, math.ceil((last - first + 1) / 5))
        return tuple((10.0**i, written(10.0**i, 1)) for i in range(first, last + 1, stride))


def axis_for(values: Sequence[float]) -> Axis:
    """The axis that shows these values best: logarithmic where they span over two decades."""
    low, high = min(values), max(values)
    if low > 0 and high / low > 100:
        return LogAxis(10.0 ** math.floor(math.log10(low)), 10.0 ** math.ceil(math.log10(high)))
    room = 0.06 * (high - low) or 0.5 * abs(high) or 1.0
    return LinearAxis(low - room if low < 0 or low > room else 0.0, high + room)


def _check_order(low: float, high: float) -> None:
    if not low < high:
        raise ValueError(f"`low` must be below `high`, got {low} and {high}; widen the range")


@attrs.frozen(kw_only=True)
class Plot:
    """Where values lie in a drawing of `width` x `height`, whose axes span `left` to `bottom`."""

    width: float
    height: float
    left: float
    right: float
    top: float
    bottom: float
    across: Axis
    up: Axis

    def x(self, value: float) -> float:
        """The place of a value across the drawing."""
        return self.left + self.across.position(value) * (self.right - self.left)

    def y(self, value: float) -> float:
        """The place of a value from the drawing's top."""
        return self.bottom - self.up.position(value) * (self.bottom - self.top)

    def frame(self, name: str) -> Markup:
        """A grid with the values up, and below it those across with the name of what they are."""
        parts = []
        for value, label in self.up.ticks():
            y = self.y(value)
            line = '<line class="grid" x1="{:g}" x2="{:g}" y1="{:.1f}" y2="{:.1f}"/>'
            parts.append(Markup(line).format(self.left, self.right, y, y))
            parts.append(text(self.left - 6, y + 3.5, label, anchor="end"))
        for value, label in self.across.ticks():
            parts.append(text(self.x(value), self.bottom + 15, label, anchor="middle"))
        middle = (self.left + self.right) / 2
        parts.append(text(middle, self.height - 1, name, anchor="middle"))
        return Markup("").join(parts)

    def line(self, points: Sequence[Point], style: str) -> Markup:
        """A path through points, with a gap where a value is not finite."""
        moves = []
        for finite, chosen in itertools.groupby(points, lambda point: math.isfinite(point[1])):
            if finite:
                places = [f"{self.x(x):.1f} {self.y(y):.1f}" for x, y in chosen]
                # A lone point draws nothing; a line of length 0 with round caps is a dot.
                moves.append("M" + "L".join(places if len(places) > 1 else places * 2))
        return Markup('<path class="{}" d="{}"/>').format(escape(style), "".join(moves))

    def drawing(self, title: str, parts: Sequence[Markup]) -> Markup:
        """The SVG element, its title read out to those who cannot see it."""
        svg = Markup('<svg viewBox="0 0 {:g} {:g}" role="img"><title>{}</title>{}</svg>')
        return svg.format(self.width, self.height, title, Markup("").join(parts))


def text(x: float, y: float, content: str, *, anchor: str) -> Markup:
    """A label whose start, middle or end lies at a place."""
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(
        x, y, anchor, content
    )
