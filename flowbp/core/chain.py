"""The sampler's own path as a plan, whose backward pass keeps every Jacobian."""

from __future__ import annotations

import math
from collections.abc import Iterable

import attrs

from ._validators import integer
from .plan import RewardInput, Segment


def _deltas(value: Iterable[float]) -> tuple[float, ...]:
    return tuple(value)


@attrs.frozen
class Chain:
    """The sampler's own last steps with all their Jacobians: the exact gradient.

    It reads like a surrogate of one-step segments that are all bridged with alpha 1, and the
    sweep treats it so.

    Args:
        deltas: `(sigma_{i+1} - sigma_i)` of the steps kept, in sampling order.
        stop: N, the step the last of them arrives at.

    Raises:
        ValueError: more steps than lead to `stop`, or none; a step that does not fall.

    Example:
        >>> [segment.start for segment in Chain((-0.25, -0.5), stop=4).segments]
        [2, 3]

    Reference: Clark et al., "Directly Fine-Tuning Diffusion Models on Differentiable Rewards",
    arXiv 2309.17400, section 4.
    """

    deltas: tuple[float, ...] = attrs.field(converter=_deltas)
    stop: int = attrs.field(validator=integer(1))

    def __attrs_post_init__(self) -> None:
        """Check that the steps exist."""
        if not 1 <= len(self.deltas) <= self.stop:
            raise ValueError(
                f"`deltas` must hold between 1 and stop={self.stop} steps, got {len(self.deltas)}"
            )
        if not all(math.isfinite(delta) and delta < 0 for delta in self.deltas):
            raise ValueError(
                f"`deltas` must be finite and negative, as the noise level falls, got {self.deltas}"
            )

    @property
    def segments(self) -> tuple[Segment, ...]:
        """One segment a step, each active."""
        start = self.stop - len(self.deltas)
        return tuple(
            Segment(i, i + 1, weights={i: delta}, active={i: 1.0})
            for i, delta in enumerate(self.deltas, start)
        )

    @property
    def alpha(self) -> float:
        """1: every Jacobian is kept."""
        return 1.0

    @property
    def reward_input(self) -> RewardInput:
        """The sample."""
        return "sample"

    @property
    def residual_floor(self) -> float | None:
        """None: the chain is the path, its residuals are zero."""
        return None

    @property
    def noised(self) -> int:
        """0: no renoised copies."""
        return 0

    @property
    def horizon(self) -> int:
        """All steps."""
        return self.stop
