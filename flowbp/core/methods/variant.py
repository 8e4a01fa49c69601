"""A method with some of its axes replaced: the four choices are independent."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import attrs
import torch
from torch import Tensor

from flowbp.validators import has, one_of, real

from ..draws import ActiveDraw
from ..quadrature import Quadrature, euler
from ..segments import RewardInput, Segment, Surrogate
from .method import Activated, Method, Scaled, draw_surrogate

# What one draw in 25 shows is missed by all of so many once in 10^9.
_DRAWS = 500


@attrs.frozen
class Variant:
    """A method whose surrogate has some axes replaced, and the others left.

    An axis that cannot change anything is refused when drawing: what the method does already, an
    alpha where no Jacobian is kept, a rule on segments of one support (each gives it the leap), or
    the prediction of a last segment that takes the sampler's own Euler steps, as in Sparse, Bridge,
    DRaFT and DRaFTLV: it is the sample, unless `quadrature` is replaced too.

    - **Gradient**, **Cost**, **Exact when**, **Not for**: the method's, with the axes changed. The
      method's gradient scales (`rescale`, `support_scale`) are those of the new weights and active
      steps; where it has none, a step that becomes active has scale 1.
    - **Reference**: arXiv 2606.11075, section 4.

    Args:
        method: draws the surrogate that is varied.
        reward_input: what the reward reads.
        alpha: in [0, 1], how much of the joint's Jacobian is kept. It acts in the draws whose
            joint is active: always in Bridge, LeapAlign, Lagrange and DRaFT of several steps,
            sometimes in DRTune.
        quadrature: the rule that gives each segment's weights. `adams_bashforth` brings supports
            of its own: Lagrange chooses its active steps among them, LeapAlign, ReFL, DRaFT and
            DRaFTLV keep theirs; give the others `active` too.
        active: chooses the active steps among each segment's supports.

    Raises:
        ValueError: nothing is replaced, or an argument is out of range.
        ValueError: (when drawing) an axis is without effect, or `quadrature` takes away supports
            that the method draws its active steps from.

    Example:
        >>> from flowbp.core import ReFL
        >>> method = Variant(ReFL(last=2), reward_input="sample")
        >>> method.draw(torch.linspace(1, 0, 5), torch.Generator()).reward_input
        'sample'
    """

    method: Method = attrs.field(validator=has("draw", "Sparse()"))
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
        if not self._replaced():
            raise ValueError(
                "`Variant` must replace at least one of reward_input, alpha, quadrature, active, "
                "got none; use the method itself"
            )

    def draw(self, sigmas: Tensor, generator: torch.Generator) -> Surrogate:
        """The method's surrogate with the axes replaced."""
        base, varied = self._drawn(sigmas, generator)
        # By chance in this draw, or in every one.
        if any(_UNCHANGED[axis](sigmas, base, varied) for axis in self._replaced()):
            never = self.without_effect(sigmas)
            if never:
                raise ValueError("; ".join(never.values()))
        return varied

    def without_effect(self, sigmas: Tensor) -> dict[str, str]:
        """By axis that changes nothing in any of 500 draws on a grid: the reason and a cure."""
        generator = torch.Generator().manual_seed(0)
        reasons = dict.fromkeys(self._replaced(), "")
        for _ in range(_DRAWS):
            base, varied = self._drawn(sigmas, generator)
            found = {axis: _UNCHANGED[axis](sigmas, base, varied) for axis in reasons}
            reasons = {axis: reason for axis, reason in found.items() if reason}
            if not reasons:
                break
        return {
            axis: f"`{axis}` must change what {type(self.method).__name__} draws, got "
            f"{_shown(getattr(self, axis))}, but {reason}; leave it out"
            for axis, reason in reasons.items()
        }

    @property
    def active_draw(self) -> ActiveDraw | None:
        """The rule that was given, otherwise the method's."""
        inner = self.method.active_draw if isinstance(self.method, Activated) else None
        return self.active or inner

    def scaled(self, segments: Sequence[Segment]) -> tuple[Segment, ...]:
        """The segments with the method's gradient scales, if it has any."""
        return self.method.scaled(segments) if isinstance(self.method, Scaled) else tuple(segments)

    def _replaced(self) -> list[str]:
        return [axis for axis in _UNCHANGED if getattr(self, axis) is not None]

    def _drawn(self, sigmas: Tensor, generator: torch.Generator) -> tuple[Surrogate, Surrogate]:
        """What the method draws, and what becomes of it."""
        base = draw_surrogate(self.method, sigmas, generator)
        segments = base.segments
        if self.quadrature is not None or self.active is not None:
            segments = self.scaled([self._segment(sigmas, each, generator) for each in segments])
        # A draw may have no joint, as DRTune's that stops at step 0.
        alpha = base.alpha
        if self.alpha is not None and len(segments) > 1:
            alpha = self.alpha
        reward_input = self.reward_input or base.reward_input
        return base, attrs.evolve(base, segments=segments, alpha=alpha, reward_input=reward_input)

    def _segment(self, sigmas: Tensor, segment: Segment, generator: torch.Generator) -> Segment:
        rule, active = self.active, segment.active
        if self.quadrature is not None:
            supports = tuple(sorted(segment.weights))
            weights = self.quadrature(sigmas, segment.start, segment.stop, supports)
            rule = self.active_draw
            if rule is None and not set(supports) <= set(weights):
                raise ValueError(
                    f"`quadrature` must keep the supports that {type(self.method).__name__} draws "
                    f"its active steps from, got a rule on {sorted(weights)} in place of "
                    f"{supports[0]} to {supports[-1]}; give `active` too, such as FirstSteps(2)"
                )
            segment = attrs.evolve(segment, weights=weights, active={})
        if rule is not None:
            s = segment.start
            # In the order that `ActiveDraw` states.
            ordered = sorted(segment.weights, key=lambda i: (i < s, abs(i - s)))
            active = {i: active.get(i, 1.0) for i in rule.draw(tuple(ordered), generator)}
        return attrs.evolve(segment, active=active)


_SAME = "that is what it has"


def _same_reading(sigmas: Tensor, base: Surrogate, varied: Surrogate) -> str:
    if varied.reward_input == base.reward_input:
        return _SAME
    # A segment of the sampler's own steps predicts the sample, bit for bit but for rounding.
    last = varied.segments[-1]
    if not _equal(last.weights, euler(sigmas, last.start, last.stop)):
        return ""
    return (
        "the prediction of its last segment, which takes the sampler's own steps, is the sample, "
        "unless `quadrature` is replaced too"
    )


def _same_bridge(_: Tensor, base: Surrogate, varied: Surrogate) -> str:
    if varied.alpha == base.alpha:
        return _SAME if len(varied.segments) > 1 else "it has no joint"
    moved = [
        any(segment.weights[i] * scale for i, scale in segment.active.items())
        for segment in varied.segments
    ]
    bridged = any(
        segment.weights.get(segment.start, 0) * segment.active.get(segment.start, 0)
        and any(moved[:number])
        for number, segment in enumerate(varied.segments)
    )
    return "" if bridged else "no Jacobian of it reaches an active step"


def _same_weights(_: Tensor, base: Surrogate, varied: Surrogate) -> str:
    pairs = zip(base.segments, varied.segments, strict=True)
    same = all(_equal(old.weights, new.weights) for old, new in pairs)
    reason = "that gives its segments the weights they have, as every rule does with one support"
    return reason if same else ""


def _same_active(_: Tensor, base: Surrogate, varied: Surrogate) -> str:
    pairs = zip(base.segments, varied.segments, strict=True)
    same = all(set(old.active) == set(new.active) for old, new in pairs)
    return "that chooses the steps that are active already" if same else ""


_UNCHANGED: Mapping[str, Callable[[Tensor, Surrogate, Surrogate], str]] = {
    "reward_input": _same_reading,
    "alpha": _same_bridge,
    "quadrature": _same_weights,
    "active": _same_active,
}
"""By axis: why its replacement changes neither value nor gradient of a draw; empty if it does."""


def _equal(left: Mapping[int, float], right: Mapping[int, float]) -> bool:
    size = max(map(abs, (*left.values(), *right.values())))
    gaps = (abs(left.get(i, 0.0) - right.get(i, 0.0)) for i in {*left, *right})
    # Grids may be of single precision.
    return max(gaps) <= 1e-5 * size


def _shown(value: object) -> str:
    rule = getattr(value, "func", value)
    return getattr(rule, "__name__", repr(value))
