"""Rules that choose which supports of a segment are active."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import attrs
import torch

from .._validators import integer, real
from ..draws import late_biased
from ..plan import Segment


class ActiveDraw(Protocol):
    """Chooses which supports of a segment are active."""

    def draw(self, supports: Sequence[int], generator: torch.Generator) -> tuple[int, ...]:
        """Some of `supports`: the segment's in sampling order, then any before it, nearest first.

        Args:
            supports: distinct steps.
            generator: source of every random choice.
        """
        ...


@attrs.frozen
class EveryStep:
    """Every support is active.

    Example:
        >>> EveryStep().draw((0, 2), torch.Generator())
        (0, 2)
    """

    def draw(self, supports: Sequence[int], generator: torch.Generator) -> tuple[int, ...]:
        """All supports."""
        return tuple(supports)


@attrs.frozen
class FirstSteps:
    """The first `count` supports from the segment's start, or all if there are fewer.

    Example:
        >>> FirstSteps(1).draw((0, 2), torch.Generator())
        (0,)
    """

    count: int = attrs.field(validator=integer(1))

    def draw(self, supports: Sequence[int], generator: torch.Generator) -> tuple[int, ...]:
        """The first supports."""
        return tuple(supports[: self.count])


@attrs.frozen
class LateBiased:
    """`count` supports drawn with probability proportional to `(i + 1)^bias`, or all if fewer.

    Example:
        >>> LateBiased(count=2, bias=1.0).draw((0, 2), torch.Generator())
        (0, 2)
    """

    count: int = attrs.field(validator=integer(1))
    bias: float = attrs.field(default=2.0, validator=real(0))

    def draw(self, supports: Sequence[int], generator: torch.Generator) -> tuple[int, ...]:
        """A late-biased draw."""
        return late_biased(supports, min(self.count, len(supports)), self.bias, generator)


def ordered_supports(segment: Segment) -> tuple[int, ...]:
    """A segment's supports in the order in which an `ActiveDraw` is given them."""
    s = segment.start
    inside = sorted(i for i in segment.weights if i >= s)
    return (*inside, *sorted((i for i in segment.weights if i < s), reverse=True))
