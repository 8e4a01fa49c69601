"""Lagrange: two segments integrated with Lagrange quadrature."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import torch
from torch import Tensor

from flowbp.validators import has, integer, real

from ..draws import FirstSteps, PairDraw, UniformPair, drawn_pair, window
from ..quadrature import evenly_spaced, lagrange
from ..segments import Segment, Surrogate
from ..trajectory import grid
from .method import rescale


@attrs.frozen
class Lagrange:
    """Two segments, k to j and j to the end, integrated with Lagrange quadrature.

    `x̂_t = x_s + sum of w_i v_i`, `w_i` the integral of the Lagrange basis of `order` supports, at
    evenly spaced offsets from s, halves to the even one; the first `active` carry a gradient.

    - **Gradient**: the active supports of both segments, and alpha times the Jacobian of v_j;
      supports after the first are damped by `support_scale`.
    - **Cost**: N velocity calls, up to 2 `active` pulls, 1 live graph.
    - **Exact when**: N = 2 and alpha = 1.
    - **Not for**: `order` beyond 6, where the weights alternate in sign and grow.
    - **Reference**: arXiv 2606.11075, section 4.

    Args:
        order: supports of each segment, its first step always one of them.
        active: how many of them, from the first, are active; at most `order`.
        support_scale: gradient scale of the active supports after the first.
        alpha: in [0, 1], how much of the joint's Jacobian is kept.
        tau: > 0, the floor of the residuals in the loss weight.
        rescale: rho, how far the active gradients are scaled up to stand for the whole segment:
            `1 + rho (sum |w| / sum over active |w| - 1)`, each segment for itself.
        pair: how the steps (k, j) are drawn from the window, at which the two segments begin.
        tail: in (0, 1], the window's part of the grid.

    Raises:
        ValueError: an argument is out of range; when drawing, the window is too short for `pair`.

    Example:
        >>> method = Lagrange(order=3, active=2)
        >>> surrogate = method.draw(torch.linspace(1, 0, 26), torch.Generator().manual_seed(0))
        >>> [len(segment.active) <= 2 for segment in surrogate.segments]
        [True, True]
    """

    order: int = attrs.field(default=3, validator=integer(1))
    active: int = attrs.field(default=2, validator=integer(1))
    support_scale: float = attrs.field(default=0.25, validator=real(0))
    alpha: float = attrs.field(default=0.1, validator=real(0, 1))
    tau: float = attrs.field(default=0.2, validator=real(0, above=True))
    rescale: float = attrs.field(default=0.0, validator=real(0, 1))
    pair: PairDraw = attrs.field(
        factory=UniformPair, validator=has("draw", "UniformPair()"), kw_only=True
    )
    tail: float = attrs.field(default=1.0, validator=real(0, 1, above=True), kw_only=True)

    def __attrs_post_init__(self) -> None:
        if self.active > self.order:
            raise ValueError(
                f"`active` must be in [1, order={self.order}], got {self.active}; "
                "only supports can be active"
            )

    def draw(self, sigmas: Tensor, generator: torch.Generator) -> Surrogate:
        """Two quadrature segments between the pair that was drawn and the end."""
        steps = len(grid(sigmas)) - 1
        k, j = drawn_pair(self.pair, window(steps, self.tail), generator)
        segments = (self._segment(sigmas, k, j), self._segment(sigmas, j, steps))
        return Surrogate(self.scaled(segments), alpha=self.alpha, residual_floor=self.tau)

    @property
    def active_draw(self) -> FirstSteps:
        """The first `active` supports of each segment, whichever these are."""
        return FirstSteps(self.active)

    def scaled(self, segments: Sequence[Segment]) -> tuple[Segment, ...]:
        """The segments rescaled, each by its own weights, and damped after their start."""
        return tuple(attrs.evolve(each, active=self._scales(each)) for each in segments)

    def _scales(self, segment: Segment) -> dict[int, float]:
        weights, active = segment.weights, segment.active
        gamma = rescale(weights.values(), (weights[i] for i in active), self.rescale)
        return {i: gamma * (1 if i == segment.start else self.support_scale) for i in active}

    def _segment(self, sigmas: Tensor, start: int, stop: int) -> Segment:
        supports = evenly_spaced(start, stop, self.order)
        active = dict.fromkeys(supports[: self.active], 1.0)
        return Segment(start, stop, lagrange(sigmas, start, stop, supports), active)
