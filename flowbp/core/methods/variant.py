"""A method with some of its axes replaced: the four choices are independent."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import torch
from torch import Tensor

from .._validators import has, one_of, real
from ..plan import RewardInput, Segment, Surrogate
from ..quadrature import Quadrature
from .active import ActiveDraw, ordered_supports
from .effects import unchanged, without_effect
from .method import Activated, Method, Scaled

AXES = ("reward_input", "alpha", "quadrature", "active")


@attrs.frozen
class Variant:
    """A method whose surrogate has some axes replaced, and the others left.

    An axis that cannot change anything is refused when drawing: what the method does already, an
    alpha where no Jacobian is kept, a rule on segments of one support (each gives it the leap), or
    the prediction of a last segment that takes the sampler's own Euler steps, as in Sparse, Bridge
    and DRaFTLV: it is the sample, unless `quadrature` is replaced too.

    - **Gradient**, **Cost**, **Exact when**, **Not for**: the method's, with the axes changed. The
      method's gradient scales (`rescale`, `support_scale`) are those of the new weights and active
      steps; where it has none, a step that becomes active has scale 1.
    - **Reference**: arXiv 2606.11075, section 4.

    Args:
        method: draws the surrogate that is varied. Not DRaFT, whose chain has no such axes.
        reward_input: what the reward reads.
        alpha: in [0, 1], how much of the joint's Jacobian is kept. It acts in the draws whose
            joint is active: always in Bridge, LeapAlign and Lagrange, sometimes in DRTune.
        quadrature: the rule that gives each segment's weights. `adams_bashforth` brings supports
            of its own: Lagrange chooses its active steps among them, LeapAlign, ReFL and DRaFTLV
            keep theirs; give the others `active` too.
        active: chooses the active steps among each segment's supports.

    Raises:
        ValueError: nothing is replaced, or an argument is out of range.
        ValueError: (when drawing) an axis is without effect, or `quadrature` takes away supports
            that the method draws its active steps from.
        TypeError: (when drawing) the method draws no surrogate.

    Example:
        >>> from flowbp.core import ReFL
        >>> method = Variant(ReFL(last=2), reward_input="sample")
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
        if not self._replaced():
            raise ValueError(
                "`Variant` must replace at least one of reward_input, alpha, quadrature, active, "
                "got none; use the method itself"
            )

    def draw(self, sigmas: Tensor, generator: torch.Generator) -> Surrogate:
        """The method's surrogate with the axes replaced."""
        base, plan = self._drawn(sigmas, generator)
        if unchanged(self._replaced(), sigmas, base, plan):
            # By chance in this draw, or in every one.
            never = self.without_effect(sigmas)
            if never:
                raise ValueError("; ".join(never.values()))
        return plan

    def without_effect(self, sigmas: Tensor) -> dict[str, str]:
        """The axes that were replaced and change nothing in any of 500 draws on a grid.

        Args:
            sigmas: (N+1,) noise levels from 1 to 0.

        Returns:
            By axis, why, and what to do about it.

        Example:
            >>> from flowbp.core import Sparse
            >>> method = Variant(Sparse(active=2), alpha=0.5)
            >>> list(method.without_effect(torch.linspace(1, 0, 5)))
            ['alpha']
        """
        values = {axis: getattr(self, axis) for axis in self._replaced()}
        return without_effect(
            values, self.method, sigmas, lambda generator: self._drawn(sigmas, generator)
        )

    @property
    def active_draw(self) -> ActiveDraw | None:
        """The rule that was given, otherwise the method's."""
        inner = self.method.active_draw if isinstance(self.method, Activated) else None
        return self.active or inner

    def scaled(self, segments: Sequence[Segment]) -> tuple[Segment, ...]:
        """The segments with the method's gradient scales, if it has any."""
        if isinstance(self.method, Scaled):
            return self.method.scaled(segments)
        return tuple(segments)

    def _replaced(self) -> tuple[str, ...]:
        return tuple(axis for axis in AXES if getattr(self, axis) is not None)

    def _drawn(self, sigmas: Tensor, generator: torch.Generator) -> tuple[Surrogate, Surrogate]:
        base = self.method.draw(sigmas, generator)
        if not isinstance(base, Surrogate):
            raise TypeError(
                f"`method` must draw a Surrogate, got {type(base).__name__} from "
                f"{type(self.method).__name__}; an exact chain has no axes to replace"
            )
        segments = base.segments
        if self.quadrature is not None or self.active is not None:
            segments = self.scaled([self._segment(sigmas, each, generator) for each in segments])
        alpha = base.alpha
        # A draw may have no joint, as DRTune's that stops at step 0.
        if self.alpha is not None and len(segments) > 1:
            alpha = self.alpha
        reward_input = self.reward_input or base.reward_input
        return base, attrs.evolve(base, segments=segments, reward_input=reward_input, alpha=alpha)

    def _segment(self, sigmas: Tensor, segment: Segment, generator: torch.Generator) -> Segment:
        rule, active = self.active, segment.active
        if self.quadrature is not None:
            supports = tuple(sorted(segment.weights))
            weights = self.quadrature(sigmas, segment.start, segment.stop, supports)
            rule = self.active_draw
            lost = sorted(set(supports) - set(weights))
            if lost and rule is None:
                raise ValueError(
                    f"`quadrature` must keep the supports that {type(self.method).__name__} draws "
                    f"its active steps from, got a rule on {sorted(weights)} in place of "
                    f"{supports[0]} to {supports[-1]}; give `active` too, such as FirstSteps(2)"
                )
            segment = attrs.evolve(segment, weights=weights, active={})
        if rule is not None:
            drawn = rule.draw(ordered_supports(segment), generator)
            active = {i: active.get(i, 1.0) for i in drawn}
        return attrs.evolve(segment, active=active)
