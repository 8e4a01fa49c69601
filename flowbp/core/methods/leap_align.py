"""LeapAlign: two single leaps with a damped Jacobian between them."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

from flowbp.validators import has, real

from ..draws import PairDraw, UniformPair
from ..segments import Surrogate
from .lagrange import Lagrange


@attrs.frozen
class LeapAlign:
    """Two single leaps, k to j and j to the end, with a damped Jacobian between them.

    `x̂_j = x_k + (sigma_j - sigma_k) v_k`, `x̂_N = x_j - sigma_j v_j`, both pinned to the path; the
    loss of each sample is divided by `max(d_j, tau) + max(d_N, tau)`.

    - **Gradient**: v_k and v_j, and alpha times the Jacobian of v_j.
    - **Cost**: N velocity calls, 2 pulls, 1 live graph.
    - **Exact when**: N = 2 and alpha = 1.
    - **Not for**: curved paths: one velocity stands for a long stretch. Lagrange is the same with
      more supports.
    - **Reference**: arXiv 2606.11075, section 4 (LeapAlign).

    Args:
        alpha: in [0, 1], how much of the Jacobian is kept.
        tau: > 0, the floor of the residuals in the loss weight.
        pair: how the steps (k, j) are drawn, at which the two leaps begin.

    Raises:
        ValueError: an argument is out of range; when drawing, the grid is too short for `pair`.

    Example:
        >>> surrogate = LeapAlign().draw(torch.linspace(1, 0, 26), torch.Generator().manual_seed(0))
        >>> len(surrogate.segments), surrogate.alpha, surrogate.residual_floor
        (2, 0.3, 0.1)
    """

    alpha: float = attrs.field(default=0.3, validator=real(0, 1))
    tau: float = attrs.field(default=0.1, validator=real(0, above=True))
    pair: PairDraw = attrs.field(
        factory=UniformPair, validator=has("draw", "UniformPair()"), kw_only=True
    )

    def draw(self, sigmas: Tensor, generator: torch.Generator) -> Surrogate:
        """Two leaps between the pair that was drawn and the end."""
        method = Lagrange(order=1, active=1, alpha=self.alpha, tau=self.tau, pair=self.pair)
        return method.draw(sigmas, generator)
