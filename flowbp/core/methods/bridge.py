"""Bridge: a few steps of the whole path, one Jacobian at a drawn joint."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import torch
from torch import Tensor

from flowbp.validators import has, integer, real

from ..draws import PairDraw, UniformPair, drawn_pair, late_biased, window
from ..quadrature import euler
from ..segments import Segment, Surrogate
from ..trajectory import grid
from .method import fits_window, scaled_over_window


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
        pair: how the steps (k, j) are drawn from the window; j is the joint.
        tail: in (0, 1], the window at the end of the grid that steps are drawn from.

    Raises:
        ValueError: an argument is out of range; when drawing, the window has fewer steps than
            `active` or than `pair` needs.

    Example:
        >>> sigmas, generator = torch.linspace(1, 0, 26), torch.Generator().manual_seed(0)
        >>> surrogate = Bridge(active=5).draw(sigmas, generator)
        >>> before, after = surrogate.segments
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
        fits_window(self.active, 2, pool, steps)
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
