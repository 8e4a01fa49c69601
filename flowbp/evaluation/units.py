"""How the numbers of a column are written."""

from __future__ import annotations

import math

import attrs

from flowbp.evaluation.scores import Scores

_DIGITS = 3
_MOST = 6


@attrs.frozen
class Unit:
    """How the numbers of a column are written.

    Args:
        percent: as a share of pictures, which pass or fail.
        digits: after the point; of more than 6, numbers are written with a power of ten instead.

    Example:
        >>> Unit(percent=True, digits=1).plain(0.5), Unit(percent=False, digits=3).signed(-0.5)
        ('50.0 %', '−0.500')
        >>> Unit(percent=False, digits=8).plain(1.25e-6)
        '1.25e−6'
    """

    percent: bool
    digits: int

    def plain(self, value: float) -> str:
        """A mean."""
        return f"{self._written(value, '')} %" if self.percent else self._written(value, "")

    def signed(self, value: float) -> str:
        """A difference; of shares in percentage points."""
        return self._written(value, "+")

    def _written(self, value: float, sign: str) -> str:
        value = 100 * value if self.percent else value
        if self.digits > _MOST:
            number, power = f"{value:{sign}.{_DIGITS - 1}e}".split("e")
            text = f"{number}e{int(power)}" if value else f"{0:{sign}d}"
        else:
            text = f"{value:{sign}.{self.digits}f}"
        # A typographic minus has the width of the plus, so that columns of figures line up.
        return text.replace("-", "−")


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
        >>> unit_of(Scores([row]), "r").digits
        1
    """
    if scores.scale(column).verdict:
        return Unit(percent=True, digits=1)
    parts = scores.parts(column)
    values = [row.values[part] for row in scores.rows for part in parts if part in row.values]
    values = [value for value in values if not math.isnan(value)] or [0.0]
    size = max(values) - min(values) or max(map(abs, values)) or 1.0
    return Unit(percent=False, digits=max(0, _DIGITS - 1 - math.floor(math.log10(size))))
