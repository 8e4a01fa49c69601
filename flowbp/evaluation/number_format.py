"""How the numbers of a column are written."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import attrs

from flowbp.evaluation.scores import Scores
from flowbp.evaluation.statistics import Change
from flowbp.significant_digits import Precision, exponent, interval_precision, precision

_EXACT = 7
"""Significant digits that a mean of float32 numbers has at most."""


@attrs.frozen
class WrittenChange:
    """A change in words, the means and the gain with its interval at one precision."""

    before: str
    after: str
    gain: str
    low: str
    high: str

    @property
    def interval(self) -> str:
        """The gain with its interval in brackets."""
        return f"{self.gain} [{self.low}, {self.high}]"


@attrs.frozen
class Unit:
    """How the numbers of a column are written."""

    percent: bool = False
    precision: Precision = attrs.field(default=Precision(3))

    def plain(self, value: float) -> str:
        """A single number or a mean."""
        return f"{_POINTS.plain(100 * value)} %" if self.percent else self.precision.plain(value)

    def change(self, change: Change) -> WrittenChange:
        """A change, as finely as its interval says."""
        gain = change.gain
        if self.percent:
            ends = [_POINTS.signed(100 * each) for each in (gain.mean, gain.low, gain.high)]
            return WrittenChange(self.plain(change.before), self.plain(change.after), *ends)
        levels = level_precision([change.before, change.after], [change])
        shared = interval_precision(gain.mean, gain.low, gain.high)
        ends = [shared.signed(each) for each in (gain.mean, gain.low, gain.high)]
        return WrittenChange(levels.plain(change.before), levels.plain(change.after), *ends)


_POINTS = Precision(1)


def level_precision(levels: Iterable[float], changes: Iterable[Change]) -> Precision:
    """The precision of means that differ by some changes, so that the changes can be seen."""
    size = max((abs(each) for each in levels if math.isfinite(each)), default=0.0)
    gains = [change.gain for change in changes]
    moved = [each for each in gains if any(attrs.astuple(each))]
    finest = [interval_precision(each.mean, each.low, each.high).places for each in moved]
    if size == 0:
        return Precision(max(finest, default=0))
    whole = precision([size], 2 if finest else 3)
    most = _EXACT - 1 - exponent(size, _EXACT)
    return Precision(min(max([whole.places, *finest]), most), whole.power)


def unit_of(scores: Scores, column: str) -> Unit:
    """How the numbers of a column are best written."""
    if scores.scale(column).verdict:
        return Unit(percent=True)
    parts = scores.parts(column)
    values = [row.values[part] for row in scores.rows for part in parts if part in row.values]
    values = [value for value in values if not math.isnan(value)]
    size = max(map(abs, values), default=0.0)
    if size == 0:
        return Unit(precision=Precision(0))
    spread = max(values) - min(values) or size
    places = min(2 - exponent(spread, 3), _EXACT - 1 - exponent(size, _EXACT))
    return Unit(precision=Precision(places, precision([size]).power))


def finer(unit: Unit, changes: Sequence[Change]) -> Unit:
    """The unit in which some changes of a column can be seen in its means, too."""
    levels = [level for change in changes for level in (change.before, change.after)]
    if unit.percent or not levels:
        return unit
    found = level_precision(levels, changes)
    return Unit(precision=max(unit.precision, found, key=lambda each: each.places))
