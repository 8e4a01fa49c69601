"""ReFL: the sample predicted at one late step."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

from flowbp.validators import integer

from ..draws import uniform_step
from ..quadrature import euler
from ..segments import Segment, Surrogate
from ..trajectory import grid
from .method import fits_grid


@attrs.frozen
class ReFL:
    """Score the sample predicted at one late step.

    `x̂_N = x_tau - sigma_tau v_tau`, tau uniform in the last `last` steps.

    - **Gradient**: `-sigma_tau dv_tau/dtheta`; every other step and every Jacobian is dropped.
    - **Cost**: tau + 1 velocity calls, 1 live graph, the rollout stops early.
    - **Exact when**: the last step is drawn, for the one-step gradient of DRaFT(last=1).
    - **Not for**: composition and layout, which are settled before the last steps; the reward
      reads a blurred prediction when tau is early.
    - **Reference**: Xu et al., "ImageReward", arXiv 2304.05977, algorithm 1; arXiv 2606.11075,
      section 4.

    Args:
        last: how many of the last steps tau is drawn from.

    Raises:
        ValueError: `last` is no integer >= 1; when drawing, it exceeds the grid.

    Example:
        >>> surrogate = ReFL(last=1).draw(torch.linspace(1, 0, 5), torch.Generator())
        >>> surrogate.reward_input, surrogate.segments[0].weights
        ('posterior_mean', {3: -0.25})
    """

    last: int = attrs.field(default=11, validator=integer(1))

    def draw(self, sigmas: Tensor, generator: torch.Generator) -> Surrogate:
        """A leap from tau to the end that is read as a posterior mean."""
        steps = len(grid(sigmas)) - 1
        fits_grid("last", self.last, 1, steps)
        tau = uniform_step(range(steps - self.last, steps), generator)
        leap = Segment(tau, steps, euler(sigmas, tau, steps, (tau,)), {tau: 1.0})
        return Surrogate((leap,), reward_input="posterior_mean")
