"""The backward trajectory as a value: its segments, weights and joints."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import attrs

from flowbp.validators import integer, one_of, real

RewardInput = Literal["sample", "posterior_mean"]


def _steps(segment: Segment, attribute: attrs.Attribute[Any], value: Mapping[int, float]) -> None:
    for step, number in value.items():
        numbers = type(step) is int and isinstance(number, (int, float))
        legal = numbers and math.isfinite(number)
        if not legal or not 0 <= step < segment.stop:
            raise ValueError(
                f"`{attribute.name}` must map steps in [0, {segment.stop}), before the segment's "
                f"end, to finite numbers, got {step!r}: {number!r}"
            )


def _copy(value: Mapping[int, float]) -> Mapping[int, float]:
    return dict(value)


def _segments(value: Iterable[Segment]) -> tuple[Segment, ...]:
    return tuple(value)


@attrs.frozen
class Segment:
    """One stretch of the surrogate path: `x_t = x_s + sum of w_i v_i`.

    Supports before s, as of `adams_bashforth`, extrapolate from velocities that led to x_s. They
    may be supports of an earlier segment too, and are evaluated at the cached latents there as
    here, so they add no Jacobian.

    Args:
        start: s, the step it leaves from.
        stop: t, the step it arrives at, s < t.
        weights: `{step: w_i}` over the supports, steps in [0, t).
        active: `{step: gamma_i}`, the supports whose velocity is evaluated again with gradient,
            each with the scale of its gradient.

    Raises:
        ValueError: a step lies outside [0, t), a number is not finite, there is no support, or
            an active step is no support.

    Example:
        >>> Segment(0, 2, weights={0: -0.5, 1: -0.5}, active={1: 1.0}).active
        {1: 1.0}

    Reference: arXiv 2606.11075, section 3.
    """

    start: int = attrs.field(validator=integer(0))
    stop: int = attrs.field(validator=integer(1))
    weights: Mapping[int, float] = attrs.field(validator=_steps, converter=_copy)
    active: Mapping[int, float] = attrs.field(validator=_steps, converter=_copy)

    def __attrs_post_init__(self) -> None:
        if self.start >= self.stop:
            raise ValueError(f"`stop` must come after `start`, got {self.start} to {self.stop}")
        if not self.weights:
            raise ValueError("`weights` must name at least one step, got none")
        stray = sorted(set(self.active) - set(self.weights))
        if stray:
            raise ValueError(
                f"`active` must be a subset of the supports {sorted(self.weights)}, "
                f"got {stray} besides"
            )


@attrs.frozen
class Surrogate:
    """The segments that replace the path in the backward pass: what a method draws for one step.

    A gradient path through n segments holds at most n - 1 Jacobians `dv/dx`: those of the active
    joints, each scaled by `alpha`. One-step segments that are all active with alpha 1 are the
    sampler's own path, and keep its exact gradient (see `DRaFT`).

    Args:
        segments: one or more, in sampling order; each starts where the one before stops.
        alpha: in [0, 1], how much of the Jacobian at each joint is kept; 0 with one segment. It
            acts only at joints that are active steps.
        reward_input: `"sample"`, the latents at the end of the rollout; or `"posterior_mean"`,
            what the last segment predicts from cached velocities.
        residual_floor: tau > 0 to divide the loss of each sample by `sum of max(d, tau)` over the
            segments' residuals d.
        noised: renoised copies of each sample's last step that join the batch (see `renoise`);
            needs one segment of one step.

    Raises:
        ValueError: any of these does not hold.

    Example:
        >>> leap = Segment(2, 4, weights={2: -0.5}, active={2: 1.0})
        >>> Surrogate((leap,)).horizon, Surrogate((leap,), reward_input="posterior_mean").horizon
        (4, 3)

    Reference: arXiv 2606.11075, section 3.
    """

    segments: tuple[Segment, ...] = attrs.field(converter=_segments)
    alpha: float = attrs.field(default=0.0, validator=real(0, 1))
    reward_input: RewardInput = attrs.field(
        default="sample", validator=one_of("sample", "posterior_mean")
    )
    residual_floor: float | None = attrs.field(
        default=None, validator=attrs.validators.optional(real(0, above=True))
    )
    noised: int = attrs.field(default=0, validator=integer(0))

    def __attrs_post_init__(self) -> None:
        if not self.segments:
            raise ValueError("`segments` must hold at least one segment, got none")
        for before, after in itertools.pairwise(self.segments):
            if before.stop != after.start:
                raise ValueError(
                    f"`segments` must join, got one that stops at {before.stop} "
                    f"and one that starts at {after.start}"
                )
        if not any(segment.active for segment in self.segments):
            raise ValueError(
                "`segments` must hold at least one active step, got none; nothing would be trained"
            )
        if self.alpha and len(self.segments) == 1:
            raise ValueError(
                f"`alpha` acts at the joints of segments, got alpha={self.alpha} with one; "
                "leave it 0"
            )
        last = self.segments[-1]
        if self.noised and (len(self.segments) != 1 or last.stop - last.start != 1):
            raise ValueError(
                f"`noised` renoises the last step, so it needs one segment of one step, "
                f"got noised={self.noised} with {len(self.segments)} segment(s) "
                f"from {self.segments[0].start} to {last.stop}"
            )

    @property
    def horizon(self) -> int:
        """How many steps the rollout must take: all, or as many as the prediction needs."""
        last = self.segments[-1]
        if self.reward_input == "sample":
            return last.stop
        return max(last.start, max(last.weights) + 1)

    @property
    def active_steps(self) -> list[int]:
        """The steps whose velocity is evaluated again with gradient, in order."""
        return sorted({i for segment in self.segments for i in segment.active})

    @property
    def exact_steps(self) -> list[int]:
        """The steps whose cached velocity must be the field's own: active ones, or read, in order.

        A rollout may extrapolate the others; what the reward reads as a posterior mean is made of
        the velocities of the last segment.
        """
        predicted = self.reward_input == "posterior_mean"
        return sorted({*self.active_steps, *(self.segments[-1].weights if predicted else ())})
