"""Axes of a chart: where a value lies, and which values are marked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import attrs

from flowbp.digits import Precision, precision, written


class Axis(Protocol):
    """Places values on a line."""

    def position(self, value: float) -> float:
        """Where `value` lies, 0 at the axis' start and 1 at its end."""

    def ticks(self) -> tuple[tuple[float, str], ...]:
        """The marked values with their labels."""


@attrs.frozen
class LinearAxis:
    """An axis on which equal differences have equal lengths.

    Args:
        low: value at its start.
        high: value at its end.
        count: about how many ticks to mark.

    Raises:
        ValueError: when `low` is not below `high`.

    Example:
        >>> LinearAxis(0.0, 100.0).ticks()[1], LinearAxis(0.0, 100.0).position(25.0)
        ((20.0, '20'), 0.25)
    """

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
    """An axis on which equal ratios have equal lengths.

    Args:
        low: value at its start, above 0.
        high: value at its end.

    Raises:
        ValueError: when `low` is not positive, or not below `high`.

    Example:
        >>> LogAxis(0.1, 10.0).position(1.0), [label for _, label in LogAxis(0.1, 10.0).ticks()]
        (0.5, ['0.1', '1', '10'])
    """

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
    """The axis that shows these values best: logarithmic where they span over two decades.

    Args:
        values: finite numbers, at least one.

    Returns:
        A `LogAxis` from decade to decade, or a `LinearAxis` with a little room at both ends.

    Example:
        >>> axis_for([0.001, 10.0])
        LogAxis(low=0.001, high=10.0)
    """
    low, high = min(values), max(values)
    if low > 0 and high / low > 100:
        return LogAxis(10.0 ** math.floor(math.log10(low)), 10.0 ** math.ceil(math.log10(high)))
    room = 0.06 * (high - low) or 0.5 * abs(high) or 1.0
    return LinearAxis(low - room if low < 0 or low > room else 0.0, high + room)


def _check_order(low: float, high: float) -> None:
    if not low < high:
        raise ValueError(f"`low` must be below `high`, got {low} and {high}; widen the range")
