"""How the numbers of a column are written."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import attrs

from flowbp.digits import Precision, exponent, interval_precision, precision
from flowbp.evaluation.scores import Scores
from flowbp.evaluation.summary import Change

_EXACT = 7
"""Significant digits that a mean of float32 numbers has at most."""


@attrs.frozen
class WrittenChange:
    """A change in words, the means and the gain with its interval at one precision.

    Args:
        before: the mean before.
        after: the mean after.
        gain: of the mean, with its sign; of shares in percentage points.
        low: lower end of its interval.
        high: upper end.

    Example:
        See `Unit.change`.
    """

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
    """How the numbers of a column are written.

    Args:
        percent: as a share of pictures, which pass or fail.
        precision: of single numbers; without effect on shares, which have one place.

    Example:
        >>> Unit(percent=True).plain(0.5), Unit(precision=Precision(places=3)).plain(-0.5)
        ('50.0 %', '−0.500')
    """

    percent: bool = False
    precision: Precision = attrs.field(default=Precision(3))

    def plain(self, value: float) -> str:
        """A single number or a mean."""
        return f"{_POINTS.plain(100 * value)} %" if self.percent else self.precision.plain(value)

    def change(self, change: Change) -> WrittenChange:
        """A change, as finely as its interval says.

        Example:
            >>> from flowbp.evaluation.bootstrap import Gain
            >>> small = Change(0.29134, 0.29255, Gain(0.00121, 0.00107, 0.00136))
            >>> written = Unit().change(small)
            >>> written.before, written.after, written.interval
            ('0.29134', '0.29255', '+0.00121 [+0.00107, +0.00136]')
        """
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
    """The precision of means that differ by some changes, so that the changes can be seen.

    Args:
        levels: the means.
        changes: between them.

    Returns:
        That of the finest change; two digits of the largest mean at least, seven at most.

    Example:
        >>> from flowbp.evaluation.bootstrap import Gain
        >>> level_precision([20.5], [Change(20.5, 20.7, Gain(0.2, 0.15, 0.26))])
        Precision(places=2, power=0)
    """
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
    """How the numbers of a column are best written.

    Args:
        scores: of all models.
        column: the column, or a total.

    Returns:
        Percent for verdicts; else three significant digits of how far values are from each other,
        or of the largest where all are the same.

    Example:
        >>> from flowbp.evaluation.score_rows import ScoreRow
        >>> row = ScoreRow(model="base", number=0, seed=0, prompt="a", kind="k", values={"r": 20.5})
        >>> unit_of(Scores([row]), "r").plain(20.5)
        '20.5'
    """
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
    """The unit in which some changes of a column can be seen in its means, too.

    Args:
        unit: of the column.
        changes: of it.

    Returns:
        The unit; of shares the same.

    Example:
        >>> from flowbp.evaluation.bootstrap import Gain
        >>> small = Change(0.29134, 0.29255, Gain(0.00121, 0.00107, 0.00136))
        >>> finer(Unit(), [small]).plain(0.29134)
        '0.29134'
    """
    levels = [level for change in changes for level in (change.before, change.after)]
    if unit.percent or not levels:
        return unit
    found = level_precision(levels, changes)
    return Unit(precision=max(unit.precision, found, key=lambda each: each.places))
