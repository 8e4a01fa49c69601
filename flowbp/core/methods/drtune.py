"""DRTune: a few steps of the early path, then a leap to the prediction."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

from flowbp.validators import integer, real

from ..draws import uniform_step
from ..quadrature import euler
from ..segments import Segment, Surrogate
from ..trajectory import grid


@attrs.frozen
class DRTune:
    """Train evenly strided steps up to an early stop e; score the sample predicted there.

    Euler steps from 0 to e, then the leap `x̂_N = x_e - sigma_e v_e`. e is uniform in the last
    `round(stop_ratio N)` steps; the train steps are `active` steps of [0, e] with stride
    `(e + 1) // active` and a random offset.

    - **Gradient**: the train steps' parameter gradients with the input of every velocity
      detached; no Jacobian.
    - **Cost**: e + 1 velocity calls, then `active` pulls, 1 live graph; the rollout stops early.
    - **Exact when**: never, unless the field does not depend on the latents.
    - **Not for**: rewards that read fine texture: they see a prediction, not a sample.
    - **Reference**: Wu et al., "Deep Reward Supervisions for Tuning Text-to-Image Diffusion
      Models", arXiv 2405.00760, algorithm 1; arXiv 2606.11075, section 4.

    Args:
        active: K, the number of train steps.
        stop_ratio: in (0, 1], the part of the grid, from its end, that e is drawn from.

    Raises:
        ValueError: an argument is out of range; when drawing, an early stop could leave fewer
            than `active` steps.

    Example:
        >>> sigmas, generator = torch.linspace(1, 0, 26), torch.Generator().manual_seed(0)
        >>> surrogate = DRTune(active=3).draw(sigmas, generator)
        >>> sum(len(segment.active) for segment in surrogate.segments), surrogate.alpha
        (3, 0.0)
    """

    active: int = attrs.field(default=3, validator=integer(1))
    stop_ratio: float = attrs.field(default=0.4, validator=real(0, 1, above=True))

    def draw(self, sigmas: Tensor, generator: torch.Generator) -> Surrogate:
        """Euler steps to e and a leap from there, read as a posterior mean."""
        steps = len(grid(sigmas)) - 1
        earliest = steps - max(1, round(self.stop_ratio * steps))
        if earliest + 1 < self.active:
            raise ValueError(
                f"`active` must be in [1, {earliest + 1}], got {self.active}; with "
                f"stop_ratio={self.stop_ratio} the path may stop after {earliest + 1} "
                f"of {steps} steps"
            )
        e = uniform_step(range(earliest, steps), generator)
        stride = (e + 1) // self.active
        offset = uniform_step(range(e + 1 - stride * (self.active - 1)), generator)
        train = [offset + stride * m for m in range(self.active)]
        leap = Segment(e, steps, euler(sigmas, e, steps, (e,)), {i: 1.0 for i in train if i == e})
        if e == 0:
            return Surrogate((leap,), reward_input="posterior_mean")
        path = Segment(0, e, euler(sigmas, 0, e), {i: 1.0 for i in train if i < e})
        return Surrogate((path, leap), reward_input="posterior_mean")
