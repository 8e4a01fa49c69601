"""The reference anchor: a regulariser that holds velocities near those of another field."""

from __future__ import annotations

import math

import attrs
import torch
from torch import Tensor

from .reading import check_grid
from .segments import Surrogate
from .trajectory import Trajectory, VelocityField, evaluated


@attrs.frozen(eq=False)
class AnchorTerm:
    """The anchor at one active step; nothing in it carries a gradient.

    Args:
        value: 0-d, in float32 at least; the values of all active steps add up to the penalty P.
        cotangent: dP/dv at that step, (B, …), for the parameters alone.
    """

    value: Tensor
    cotangent: Tensor


def anchor_term(
    surrogate: Surrogate,
    trajectory: Trajectory,
    step: int,
    reference: VelocityField,
    strength: float,
) -> AnchorTerm:
    """One active step's part of a penalty on the distance to a reference field.

    `P = strength · mean (v_theta(sg x_i) - v_ref(sg x_i))²` over the K active steps i, the B
    samples, renoised copies included, and all elements of the latents. The latents are the
    trajectory's, held fixed: P reaches the parameters through each velocity alone, never through
    another step. So

        a_i = dP/dv_i = 2 strength (v_i - v_ref,i) / (K · numel)

    which `sweep` pulls into the parameters together with the reward's cotangent, and not to the
    latents: along the path v_ref moves too, and a term of v's own Jacobian would be spurious.

    Args:
        surrogate: what was drawn.
        trajectory: the rollout it is read from; its velocities are v, the guided ones if the
            sampler was guided.
        step: i, an active step of the surrogate.
        reference: v_ref, guided as the sampler is; called once, without gradient.
        strength: a finite number above 0.

    Returns:
        The step's value and cotangent.

    Raises:
        ValueError: the step is not active, the strength is not such a number, the surrogate
            belongs to another grid, or the reference returns another shape than the latents'.

    Example:
        >>> from flowbp.core import DRaFT, rollout
        >>> sigmas = torch.tensor([1.0, 0.0])
        >>> path = rollout(lambda x, sigma: 0.5 * x, torch.ones(1, 1), sigmas)
        >>> surrogate = DRaFT(last=1).draw(sigmas, torch.Generator())
        >>> anchor_term(surrogate, path, 0, lambda x, sigma: 0.25 * x, 2.0)
        AnchorTerm(value=tensor(0.1250), cotangent=tensor([[1.]]))

    Reference: Liu et al., "Flow-GRPO", arXiv 2505.05470, whose Kullback-Leibler penalty is this
    squared distance with a factor of the noise level at each step; here the factor is constant.
    """
    check_grid(surrogate, trajectory)
    active = surrogate.active_steps
    if step not in active:
        raise ValueError(
            f"`step` must be one of the active steps {active}, got {step}; only they have a "
            "gradient"
        )
    if not (math.isfinite(strength) and strength > 0):
        raise ValueError(
            f"`strength` must be a finite number above 0, got {strength}; leave the anchor out to "
            "switch it off"
        )
    with torch.no_grad():
        v_ref = evaluated(reference, trajectory.latents[step], trajectory.sigmas[step])
        gap = trajectory.velocities[step] - v_ref
        # In half precision the mean of squares would lose its digits.
        square = gap.to(torch.promote_types(gap.dtype, torch.float32)).square().mean()
    scale = strength / len(active)
    return AnchorTerm(scale * square, (2 * scale / gap.numel()) * gap)
