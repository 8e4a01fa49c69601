"""Learning-rate schedules over the true number of optimizer steps."""

from __future__ import annotations

import math
from typing import Protocol

import attrs

from flowbp.core._validators import integer, real
from flowbp.limits import STEPS


class Schedule(Protocol):
    """What part of the learning rate an optimizer step uses."""

    def factor(self, step: int, total: int) -> float:
        """The factor of optimizer step `step`, counted from 0, of a run of `total` steps."""
        ...


@attrs.frozen
class Constant:
    """The same rate throughout, after a linear warm-up.

    Step t of the warm-up uses the factor `(t + 1) / (warmup + 1)`: it starts above zero, and the
    full rate comes with step `warmup`.

    Args:
        warmup: how many steps come before the full rate.

    Raises:
        ValueError: `warmup` is no integer >= 0; when asked, it leaves no step at the full rate.

    Example:
        >>> [Constant(warmup=3).factor(t, 5) for t in range(5)]
        [0.25, 0.5, 0.75, 1.0, 1.0]
    """

    warmup: int = attrs.field(default=0, validator=integer(0, STEPS))

    def factor(self, step: int, total: int) -> float:
        """`(t + 1) / (warmup + 1)`, then 1."""
        warming = _warming(step, total, self.warmup)
        return 1.0 if warming is None else warming


@attrs.frozen
class LinearDecay:
    """A straight line from the full rate to `final_ratio` of it, which the last step uses.

    `1 + (final_ratio - 1) p`, p going from 0 at step `warmup` to 1 at the last step.

    Args:
        warmup: as in `Constant`.
        final_ratio: in [0, 1]; with 0 the last step changes nothing.

    Raises:
        ValueError: as `Constant`, or `final_ratio` is out of range.

    Example:
        >>> [LinearDecay(final_ratio=0.5).factor(t, 3) for t in range(3)]
        [1.0, 0.75, 0.5]
    """

    warmup: int = attrs.field(default=0, validator=integer(0, STEPS))
    final_ratio: float = attrs.field(default=0.1, validator=real(0, 1))

    def factor(self, step: int, total: int) -> float:
        """The warm-up's factor, then the line's."""
        warming = _warming(step, total, self.warmup)
        if warming is not None:
            return warming
        return 1 + (self.final_ratio - 1) * _progress(step, total, self.warmup)


@attrs.frozen
class CosineDecay:
    """Half a cosine from the full rate to `final_ratio` of it, which the last step uses.

    `final_ratio + (1 - final_ratio) (1 + cos(pi p)) / 2`, p as in `LinearDecay`.

    Args:
        warmup: as in `Constant`.
        final_ratio: in [0, 1]; with 0 the last step changes nothing.

    Raises:
        ValueError: as `LinearDecay`.

    Example:
        >>> [round(CosineDecay(final_ratio=0.5).factor(t, 3), 6) for t in range(3)]
        [1.0, 0.75, 0.5]

    Reference: Loshchilov and Hutter, "SGDR", arXiv 1608.03983.
    """

    warmup: int = attrs.field(default=0, validator=integer(0, STEPS))
    final_ratio: float = attrs.field(default=0.1, validator=real(0, 1))

    def factor(self, step: int, total: int) -> float:
        """The warm-up's factor, then the cosine's."""
        warming = _warming(step, total, self.warmup)
        if warming is not None:
            return warming
        share = (1 + math.cos(math.pi * _progress(step, total, self.warmup))) / 2
        return self.final_ratio + (1 - self.final_ratio) * share


def _warming(step: int, total: int, warmup: int) -> float | None:
    if not 0 <= step < total:
        raise ValueError(f"`step` must be in [0, {total - 1}], got {step}; the run has {total}")
    if warmup >= total:
        raise ValueError(
            f"`warmup` must be below the run's {total} optimizer steps, got {warmup}; "
            "shorten the warm-up or lengthen the run"
        )
    return (step + 1) / (warmup + 1) if step < warmup else None


def _progress(step: int, total: int, warmup: int) -> float:
    return (step - warmup) / max(1, total - 1 - warmup)
