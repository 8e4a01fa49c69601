"""Numbers as people read them: by significant digits, whatever their size."""

from __future__ import annotations

import math
from collections.abc import Iterable
from decimal import ROUND_HALF_EVEN, Context, Decimal

import attrs

_EXACTLY = Context(prec=800, rounding=ROUND_HALF_EVEN)
"""Wide enough for every float."""

_WHOLE = range(-4, 6)
"""Powers of ten of a leading digit that are written out; others are factored out."""

_ESTIMATE = 3
"""Places that a small estimate may have beyond those of its interval."""


@attrs.frozen
class Precision:
    """How finely numbers are written that are to be compared.

    Args:
        places: the last digit stands for ``10**-places``.
        power: of ten, which is factored out of all of them; 0 for none.
    """

    places: int
    power: int = 0

    def plain(self, value: float) -> str:
        """A number; with a sign only below 0."""
        return self._written(value, "")

    def signed(self, value: float) -> str:
        """A difference, with its sign; what rounds to 0 has none."""
        return self._written(value, "+")

    def _written(self, value: float, sign: str) -> str:
        value = float(value)
        if not math.isfinite(value):
            return f"{value}".replace("-", "−")
        scaled = Decimal(repr(value)).scaleb(-self.power)
        last = Decimal(1).scaleb(-max(0, self.places + self.power))
        rounded = scaled.quantize(last, context=_EXACTLY)
        text = f"{rounded:{sign}f}" if rounded else f"{abs(rounded):f}"
        power = f"e{self.power}" if self.power and rounded else ""
        # A typographic minus has the width of the plus, so that columns of figures line up.
        return f"{text}{power}".replace("-", "−")


def written(value: float, digits: int = 3) -> str:
    """A number by itself, to so many significant digits; up to a million it is written out."""
    return precision([value], digits).plain(value)


def precision(values: Iterable[float], digits: int = 3) -> Precision:
    """The precision at which the largest of some numbers has so many significant digits."""
    size = max((abs(value) for value in values if math.isfinite(value)), default=0.0)
    return Precision(0) if size == 0 else _at(digits - 1 - exponent(size, digits), size, digits)


def interval_precision(mean: float, low: float, high: float) -> Precision:
    """The precision of an estimate and the ends of its interval: two digits of its width.

    An estimate that is small beside its interval still shows two digits of its own, unless that
    takes more than three places more. Where the interval has no width, three digits of all.
    """
    ends, width = (mean, low, high), high - low
    if not math.isfinite(width) or width <= 0:
        return precision(ends)
    places = 1 - exponent(width, 2)
    size = max(map(abs, ends))
    power = _at(places, size, places + exponent(size, 2) + 1).power
    if mean == 0 or 1 - exponent(mean, 2) > places + _ESTIMATE:
        return Precision(places, power)
    # Alone, too, the estimate is to have one digit before the point.
    lead = exponent(mean, 2)
    return Precision(max(places, 1 - lead), lead if power else 0)


def interval(mean: float, low: float, high: float) -> str:
    """An estimate of a difference with its interval, such as ``+0.053 [+0.041, +0.066]``."""
    shared = interval_precision(mean, low, high)
    return f"{shared.signed(mean)} [{shared.signed(low)}, {shared.signed(high)}]"


def exponent(value: float, digits: int = 1) -> int:
    """The power of ten of the leading digit, once the number is rounded to so many digits."""
    return int(f"{value:.{digits - 1}e}".split("e")[1])


def _at(places: int, size: float, digits: int) -> Precision:
    power = exponent(size, max(1, digits))
    return Precision(places, 0 if power in _WHOLE else power)
