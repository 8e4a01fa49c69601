"""Sparse: a few steps of the whole path, no Jacobian."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import torch
from torch import Tensor

from flowbp.validators import integer, real

from ..draws import late_biased, window
from ..quadrature import euler
from ..segments import Segment, Surrogate
from ..trajectory import grid
from .method import fits_window, scaled_over_window


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
        >>> sigmas, generator = torch.linspace(1, 0, 26), torch.Generator().manual_seed(0)
        >>> surrogate = Sparse(active=4).draw(sigmas, generator)
        >>> len(surrogate.segments[0].weights), len(surrogate.segments[0].active)
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
        fits_window(self.active, 1, pool, steps)
        active = late_biased(pool, self.active, self.late_bias, generator)
        path = Segment(0, steps, euler(sigmas, 0, steps), dict.fromkeys(active, 1.0))
        return Surrogate(self.scaled((path,)))

    def scaled(self, segments: Sequence[Segment]) -> tuple[Segment, ...]:
        """The segments rescaled by their weights in the window."""
        return scaled_over_window(segments, self.tail, self.rescale)
