"""Methods whose gradient passes through one velocity: ReFL and DRaFT-LV."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

from .._validators import fits_grid, integer
from ..draws import uniform_step
from ..plan import Segment, Surrogate
from ..quadrature import euler
from ..trajectory import grid


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
        >>> plan = ReFL(last=1).draw(torch.linspace(1, 0, 5), torch.Generator())
        >>> plan.reward_input, plan.segments[0].weights
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
