"""DRaFT: the exact gradient of the last steps."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

from flowbp.validators import integer

from ..quadrature import euler
from ..segments import Segment, Surrogate
from ..trajectory import grid
from .method import fits_grid


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
        >>> surrogate = DRaFT(last=2).draw(torch.linspace(1, 0, 5), torch.Generator())
        >>> [segment.weights for segment in surrogate.segments], surrogate.alpha
        ([{2: -0.25}, {3: -0.25}], 1.0)
    """

    last: int = attrs.field(default=1, validator=integer(1))

    def draw(self, sigmas: Tensor, generator: torch.Generator) -> Surrogate:
        """A segment for each of the last steps, all of them bridged; nothing is random."""
        steps = len(grid(sigmas)) - 1
        fits_grid("last", self.last, 1, steps)
        segments = [
            Segment(i, i + 1, euler(sigmas, i, i + 1), {i: 1.0})
            for i in range(steps - self.last, steps)
        ]
        return Surrogate(segments, alpha=1.0 if self.last > 1 else 0.0)
