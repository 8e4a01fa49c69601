"""DRaFT-LV: the last step, averaged over renoised copies."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

from flowbp.validators import integer

from ..quadrature import euler
from ..segments import Segment, Surrogate
from ..trajectory import grid


@attrs.frozen
class DRaFTLV:
    """The last step's gradient, averaged over renoised copies to lower its variance.

    `x_N = x_{N-1} - sigma_{N-1} v_{N-1}`; each copy starts from `(1 - sigma) sg(x_N) + sigma eps`.

    - **Gradient**: `dv_{N-1}/dtheta` at the sample's last step and at `noised` copies of it; no
      Jacobian.
    - **Cost**: N + noised velocity calls, 1 live graph of 1 + noised batches (split it into
      micro-batches), decode and reward of all copies.
    - **Exact when**: `noised=0`, for the one-step gradient of DRaFT(last=1).
    - **Not for**: anything settled before the last step. It learns fast and over-optimises
      textures.
    - **Reference**: Clark et al., arXiv 2309.17400, section 4.3; arXiv 2606.11075, section 4.

    Args:
        noised: renoised copies of each sample.

    Raises:
        ValueError: `noised` is no integer from 0 to 1024.

    Example:
        >>> DRaFTLV(noised=2).draw(torch.linspace(1, 0, 5), torch.Generator()).noised
        2
    """

    noised: int = attrs.field(default=2, validator=integer(0, 1024))

    def draw(self, sigmas: Tensor, generator: torch.Generator) -> Surrogate:
        """The last step, with copies."""
        i = len(grid(sigmas)) - 2
        step = Segment(i, i + 1, euler(sigmas, i, i + 1), {i: 1.0})
        return Surrogate((step,), noised=self.noised)
