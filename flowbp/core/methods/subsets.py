"""Methods that choose among the sampler's own steps: Sparse, Bridge, DRaFT."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import attrs
import torch
from torch import Tensor

from .._validators import fits_grid, has, integer, real
from ..chain import Chain
from ..draws import PairDraw, UniformPair, drawn_pair, late_biased, window
from ..plan import Segment, Surrogate
from ..quadrature import euler
from ..trajectory import grid
from .method import scaled_over_window


@attrs.frozen
class Sparse:
    """A few steps of the whole path, late ones preferred, and no Jacobian.

    `x̂_N = x_0 + sum of (sigma_{i+1} - sigma_i) v_i`, active on a drawn set.

    - **Gradient**: the active steps' parameter gradients; every Jacobian is dropped.
    - **Cost**: N velocity calls, `active` pulls, 1 live graph.
    - **Exact when**: `active = N` and the field does not depend on the latents; `active=1` with a
      strong bias is DRaFT(last=1).
    - **Not for**: rewards that depend on how early steps steer later ones; Bridge keeps one such
      Jacobian.
    - **Reference**: arXiv 2606.11075, section 4.

    Args:
        active: K, how many steps carry a gradient.
        late_bias: step i is drawn with probability proportional to `(i + 1)^late_bias`.
        rescale: rho in [0, 1], how far the active gradients are scaled up to stand for the window:
            `1 + rho (sum |w| / sum over active |w| - 1)`, both sums over the window.
        tail: in (0, 1], the window at the end of the grid that steps are drawn from.

    Raises:
        ValueError: an argument is out of range; when drawing, the window has fewer steps than
            `active`.

    Example:
        >>> plan = Sparse(active=4).draw(torch.linspace(1, 0, 26), torch.Generator().manual_seed(0))
        >>> len(plan.segments[0].weights), len(plan.segments[0].active)
        (25, 4)
    """

    active: int = attrs.field(default=4, validator=integer(1))
    late_bias: float = attrs.field(default=2.0, validator=real(0))
    rescale: float = attrs.field(default=0.0, validator=real(0, 1))
    tail: float = attrs.field(default=1.0, validator=real(0, 1, above=True), kw_only=True)

    def draw(self, sigmas: Tensor, generator: torch.Generator) -> Surrogate:
        """One Euler segment with a late-biased active set."""
        steps = len(grid(sigmas)) - 1
        pool = window(steps, self.tail)
        _fits_window(self.active, 1, pool, steps)
        active = late_biased(pool, self.active, self.late_bias, generator)
        path = Segment(0, steps, euler(sigmas, 0, steps), dict.fromkeys(active, 1.0))
        return Surrogate(self.scaled((path,)))

    def scaled(self, segments: Sequence[Segment]) -> tuple[Segment, ...]:
        """The segments rescaled by their weights in the window."""
        return scaled_over_window(segments, self.tail, self.rescale)


@attrs.frozen
class Bridge:
    """A few steps of the whole path, with one Jacobian kept at a drawn joint.

    Euler segments 0 to j and j to N; `v_j` is always active, and its Jacobian, scaled by alpha,
    carries the late reward into the steps before j.

    - **Gradient**: the active steps' parameter gradients, and alpha times the Jacobian of v_j for
      those before j.
    - **Cost**: N velocity calls, `active` pulls, 1 live graph.
    - **Exact when**: N = 2, `active = 2` and alpha = 1; with alpha = 0 it is Sparse with the same
      active set.
    - **Not for**: grids of one step. A large alpha with early joints brings the exact gradient's
      growth back.
    - **Reference**: arXiv 2606.11075, section 4.

    Args:
        active: K >= 2, split over both sides of the joint in proportion to their lengths, at
            least one each; the joint is one of those after.
        late_bias: late-biased draw inside each side, steps counted from the side's start.
        rescale: rho in [0, 1], how far the active gradients are scaled up to stand for the window:
            `1 + rho (sum |w| / sum over active |w| - 1)`, both sums over the window.
        alpha: in [0, 1], how much of the joint's Jacobian is kept.
        pair: draws (k, j) from the window; j is the joint.
        tail: in (0, 1], the window at the end of the grid that steps are drawn from.

    Raises:
        ValueError: an argument is out of range; when drawing, the window has fewer steps than
            `active` or than `pair` needs.

    Example:
        >>> plan = Bridge(active=5).draw(torch.linspace(1, 0, 26), torch.Generator().manual_seed(0))
        >>> before, after = plan.segments
        >>> after.start in after.active, len(before.active) + len(after.active)
        (True, 5)
    """

    active: int = attrs.field(default=5, validator=integer(2))
    late_bias: float = attrs.field(default=2.0, validator=real(0))
    rescale: float = attrs.field(default=0.0, validator=real(0, 1))
    alpha: float = attrs.field(default=0.5, validator=real(0, 1))
    pair: PairDraw = attrs.field(
        factory=UniformPair, validator=has("draw", "UniformPair()"), kw_only=True
    )
    tail: float = attrs.field(default=1.0, validator=real(0, 1, above=True), kw_only=True)

    def draw(self, sigmas: Tensor, generator: torch.Generator) -> Surrogate:
        """Two Euler segments around the joint that was drawn."""
        steps = len(grid(sigmas)) - 1
        pool = window(steps, self.tail)
        _fits_window(self.active, 2, pool, steps)
        _, j = drawn_pair(self.pair, pool, generator)
        before, after = range(pool.start, j), range(j + 1, steps)
        share = round(self.active * len(before) / len(pool))
        count = max(1, self.active - len(after) - 1, min(share, len(before), self.active - 1))
        early = late_biased(before, count, self.late_bias, generator, origin=before.start)
        late = late_biased(
            after, self.active - count - 1, self.late_bias, generator, origin=after.start
        )
        segments = (
            Segment(0, j, euler(sigmas, 0, j), dict.fromkeys(early, 1.0)),
            Segment(j, steps, euler(sigmas, j, steps), dict.fromkeys((j, *late), 1.0)),
        )
        return Surrogate(self.scaled(segments), alpha=self.alpha)

    def scaled(self, segments: Sequence[Segment]) -> tuple[Segment, ...]:
        """The segments rescaled by their weights in the window, together."""
        return scaled_over_window(segments, self.tail, self.rescale)


@attrs.frozen
class DRaFT:
    """The exact gradient of the last steps, every Jacobian included.

    `lambda_i = lambda_{i+1} + (sigma_{i+1} - sigma_i) J_iᵀ lambda_{i+1}`.

    - **Gradient**: everything the last K steps contribute; `last = N` is the exact gradient.
    - **Cost**: N velocity calls, K pulls, 1 live graph.
    - **Exact when**: `last = N`.
    - **Not for**: many steps of a large model: the product of Jacobians grows towards early
      steps. Use it with small K, or as the yardstick of the others.
    - **Reference**: Clark et al., arXiv 2309.17400, section 4 (DRaFT-K).

    Args:
        last: K, how many of the last steps keep their gradient.

    Raises:
        ValueError: `last` is no integer >= 1; when drawing, it exceeds the grid.

    Example:
        >>> DRaFT(last=2).draw(torch.linspace(1, 0, 5), torch.Generator()).deltas
        (-0.25, -0.25)
    """

    last: int = attrs.field(default=1, validator=integer(1))

    def draw(self, sigmas: Tensor, generator: torch.Generator) -> Chain:
        """The last steps; nothing about it is random."""
        levels = grid(sigmas)
        fits_grid("last", self.last, 1, len(levels) - 1)
        deltas = [b - a for a, b in itertools.pairwise(levels)]
        return Chain(tuple(deltas[-self.last :]), stop=len(deltas))


def _fits_window(count: int, low: int, pool: range, steps: int) -> None:
    if len(pool) < low:
        raise ValueError(
            f"`sigmas` must leave a window of at least {low} steps, got {len(pool)} of {steps}; "
            "use a finer grid or raise `tail`"
        )
    if len(pool) == steps:
        fits_grid("active", count, low, steps)
    elif count > len(pool):
        raise ValueError(
            f"`active` must be in [{low}, {len(pool)}], got {count}; the window holds {len(pool)} "
            f"of the grid's {steps} steps; raise `tail`"
        )
