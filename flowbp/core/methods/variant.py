"""A method with some of its axes replaced: the four choices are independent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import attrs
import torch
from torch import Tensor

from .._validators import has, integer, one_of, real
from ..draws import late_biased
from ..plan import RewardInput, Segment, Surrogate
from ..quadrature import Quadrature
from .method import Method


class ActiveDraw(Protocol):
    """Chooses which supports of a segment are active."""

    def draw(self, supports: Sequence[int], generator: torch.Generator) -> tuple[int, ...]:
        """Some of `supports`, which ascend, in ascending order."""
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
    """The first `count` supports, or all if there are fewer.

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


@attrs.frozen
class Variant:
    """A method whose surrogate has some axes replaced, and the others left.

    - **Gradient**, **Cost**, **Exact when**, **Not for**: the method's, with the axes changed.
      Replacing the active set sets its gradient scales to 1; replacing the quadrature leaves the
      scales that the method drew.
    - **Reference**: arXiv 2606.11075, section 4.

    Args:
        method: draws the surrogate that is varied. Not DRaFT, whose chain has no such axes.
        reward_input: what the reward reads.
        alpha: in [0, 1], how much of the joint's Jacobian is kept. It acts in the draws whose
            joint is active: always in Bridge, LeapAlign and Lagrange, sometimes in DRTune.
        quadrature: the rule that gives each segment's weights, on its own supports.
        active: chooses the active steps among each segment's supports.

    Raises:
        ValueError: nothing is replaced, or an argument is out of range.
        ValueError: (when drawing) alpha is given for a surrogate of one segment.
        TypeError: (when drawing) the method draws no surrogate.

    Example:
        >>> from flowbp.core import ReFL
        >>> method = Variant(ReFL(last=1), reward_input="sample")
        >>> method.draw(torch.linspace(1, 0, 5), torch.Generator()).reward_input
        'sample'
    """

    method: Method[Surrogate] = attrs.field(validator=has("draw", "Sparse()"))
    reward_input: RewardInput | None = attrs.field(
        default=None,
        validator=attrs.validators.optional(one_of("sample", "posterior_mean")),
        kw_only=True,
    )
    alpha: float | None = attrs.field(
        default=None, validator=attrs.validators.optional(real(0, 1)), kw_only=True
    )
    quadrature: Quadrature | None = attrs.field(default=None, kw_only=True)
    active: ActiveDraw | None = attrs.field(
        default=None,
        validator=attrs.validators.optional(has("draw", "EveryStep()")),
        kw_only=True,
    )

    def __attrs_post_init__(self) -> None:
        """Refuse a variant that varies nothing."""
        axes = (self.reward_input, self.alpha, self.quadrature, self.active)
        if all(axis is None for axis in axes):
            raise ValueError(
                "`Variant` must replace at least one of reward_input, alpha, quadrature, active, "
                "got none; use the method itself"
            )

    def draw(self, sigmas: Tensor, generator: torch.Generator) -> Surrogate:
        """The method's surrogate with the axes replaced."""
        plan = self.method.draw(sigmas, generator)
        if not isinstance(plan, Surrogate):
            raise TypeError(
                f"`method` must draw a Surrogate, got {type(plan).__name__} from "
                f"{type(self.method).__name__}; an exact chain has no axes to replace"
            )
        return attrs.evolve(
            plan,
            segments=tuple(self._segment(sigmas, each, generator) for each in plan.segments),
            reward_input=self.reward_input or plan.reward_input,
            alpha=plan.alpha if self.alpha is None else self.alpha,
        )

    def _segment(self, sigmas: Tensor, segment: Segment, generator: torch.Generator) -> Segment:
        weights: Mapping[int, float] = segment.weights
        active: Mapping[int, float] = segment.active
        if self.quadrature is not None:
            weights = self.quadrature(sigmas, segment.start, segment.stop, tuple(sorted(weights)))
        if self.active is not None:
            active = dict.fromkeys(self.active.draw(sorted(weights), generator), 1.0)
        return attrs.evolve(segment, weights=weights, active=active)
