"""What the cached trajectory says before any gradient exists: reward input, residuals, weights."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .segments import Segment, Surrogate
from .trajectory import Trajectory, VelocityField, evaluated, grid


def read(surrogate: Surrogate, trajectory: Trajectory) -> Tensor:
    """The latents that the reward must score, shape (B, …).

    The cached sample, bit for bit; or `x_s + sum of w_i v_i` over the last segment, from cached
    velocities.

    Args:
        surrogate: drawn on the trajectory's grid.
        trajectory: a rollout of at least `surrogate.horizon` steps.

    Raises:
        ValueError: the surrogate belongs to another grid, or the rollout is too short for it.

    Example:
        >>> from flowbp.core import ReFL, rollout
        >>> sigmas = torch.linspace(1, 0, 5)
        >>> surrogate = ReFL(last=2).draw(sigmas, torch.Generator().manual_seed(0))
        >>> path = rollout(lambda x, sigma: -x, torch.ones(1, 2), sigmas, stop=surrogate.horizon)
        >>> torch.equal(read(surrogate, path), path.posterior_mean(surrogate.segments[0].start))
        True

    Reference: arXiv 2606.11075, section 3.
    """
    check_grid(surrogate, trajectory)
    if surrogate.reward_input == "sample":
        return trajectory.sample
    return _prediction(surrogate.segments[-1], trajectory)


def residuals(surrogate: Surrogate, trajectory: Trajectory) -> tuple[Tensor, ...]:
    """How far each segment lands from the path: `d_t = mean |x̂_t - x_t|`, per sample.

    Arguments and errors are `read`'s.

    Returns:
        One tensor (B,) for each segment; `nan` for a segment that arrives at a step which the
        rollout, stopped early, did not reach.

    Example:
        >>> from flowbp.core import DRaFT, rollout
        >>> sigmas = torch.tensor([1.0, 0.5, 0.0])
        >>> path = rollout(lambda x, sigma: -x, torch.ones(1, 2), sigmas)
        >>> residuals(DRaFT(last=1).draw(sigmas, torch.Generator()), path)
        (tensor([0.]),)

    Reference: arXiv 2606.11075, section 3.
    """
    check_grid(surrogate, trajectory)
    return tuple(_residual(segment, trajectory) for segment in surrogate.segments)


def loss_weights(surrogate: Surrogate, trajectory: Trajectory) -> Tensor:
    """The weight of each sample's loss, shape (B,).

    1, or `1 / sum of max(d, tau)` if the surrogate has a residual floor tau; the sum is over the
    segments that end within the surrogate's horizon.

    Arguments and errors are `read`'s; a weight that needs the residual of a step which was not
    reached is an error too.

    Example:
        >>> from flowbp.core import DRaFT, rollout
        >>> sigmas = torch.linspace(1, 0, 5)
        >>> surrogate = DRaFT(last=1).draw(sigmas, torch.Generator())
        >>> loss_weights(surrogate, rollout(lambda x, sigma: -x, torch.ones(2, 3), sigmas))
        tensor([1., 1.])

    Reference: arXiv 2606.11075, section 4 (LeapAlign's trajectory weight).
    """
    check_grid(surrogate, trajectory)
    if surrogate.residual_floor is None:
        x = trajectory.latents
        return torch.ones(x.shape[1], dtype=x.dtype, device=x.device)
    floored = [
        _residual(segment, trajectory).clamp(min=surrogate.residual_floor)
        for segment in surrogate.segments
        if segment.stop <= surrogate.horizon
    ]
    if not floored:
        raise ValueError(
            f"`residual_floor` weighs samples by residuals, but the surrogate stops after "
            f"{surrogate.horizon} steps, before any segment ends; read the sample, or drop the "
            "floor"
        )
    return 1 / torch.stack(floored).sum(dim=0)


def renoise(
    surrogate: Surrogate,
    trajectory: Trajectory,
    velocity: VelocityField,
    generator: torch.Generator,
    *,
    whole: int | None = None,
    first: int = 0,
) -> Trajectory:
    """Add `surrogate.noised` renoised copies of every sample's last step to the batch.

    A copy starts from `(1 - sigma) x_N + sigma eps` at the last step's sigma, and its sample is
    its one-step prediction. The batch becomes B (1 + noised), ordered as `Tensor.repeat` orders
    it: repeat prompts and conditioning likewise. Before the last step the copies hold the
    original's latents. A surrogate without copies gets its trajectory back.

    Args:
        surrogate: what was drawn.
        trajectory: a full rollout of B samples.
        velocity: the field of those B samples; called once for each copy, without gradient.
        generator: source of eps.
        whole: the size of the batch that the B samples are a part of, B if None; eps is drawn for
            all of it, so that a sample's does not depend on the part that it is in.
        first: the number of the first of the B samples in that batch.

    Returns:
        A trajectory of B (1 + noised) samples.

    Raises:
        ValueError: as `read`; or the part does not lie in the batch.

    Example:
        >>> from flowbp.core import DRaFTLV, rollout
        >>> sigmas, field = torch.linspace(1, 0, 5), lambda x, sigma: -x
        >>> generator = torch.Generator().manual_seed(0)
        >>> surrogate = DRaFTLV(noised=2).draw(sigmas, generator)
        >>> path = rollout(field, torch.ones(4, 3), sigmas)
        >>> renoise(surrogate, path, field, generator).sample.shape
        torch.Size([12, 3])

    Reference: Clark et al., arXiv 2309.17400, section 4.3 (DRaFT-LV).
    """
    check_grid(surrogate, trajectory)
    if not surrogate.noised:
        return trajectory
    x_end, batch = trajectory.sample, trajectory.sample.shape[0]
    of_all = batch if whole is None else whole
    if not 0 <= first <= of_all - batch:
        raise ValueError(
            f"`first` must be in [0, {of_all - batch}], got {first}; the trajectory has {batch} "
            f"samples of a batch of {of_all}"
        )
    i = surrogate.segments[-1].start
    sigma = trajectory.sigmas[i]
    level = sigma.to(x_end.dtype)
    copies = [1, 1 + surrogate.noised] + [1] * (x_end.ndim - 1)
    latents, velocities = trajectory.latents.repeat(copies), trajectory.velocities.repeat(copies)
    for copy in range(1, 1 + surrogate.noised):
        samples = slice(copy * batch, (copy + 1) * batch)
        eps = torch.randn(
            (of_all, *x_end.shape[1:]),
            generator=generator,
            device=generator.device,
            dtype=x_end.dtype,
        )[first : first + batch]
        x_i = (1 - level) * x_end + level * eps.to(x_end.device)
        with torch.no_grad():
            v_i = evaluated(velocity, x_i, sigma)
        latents[i, samples], velocities[i, samples] = x_i, v_i
        latents[i + 1, samples] = x_i - level * v_i
    return Trajectory(trajectory.sigmas, latents, velocities)


def check_grid(surrogate: Surrogate, trajectory: Trajectory) -> None:
    """Refuse a surrogate that was drawn for another grid or a longer rollout.

    Every quadrature integrates a constant velocity exactly, so the weights of each segment must
    sum to the difference of its noise levels.
    """
    stop = surrogate.segments[-1].stop
    if stop != trajectory.steps:
        raise ValueError(
            f"`surrogate` must end at the trajectory's last step {trajectory.steps}, got one that "
            f"ends at {stop}; draw it with the sigmas of the rollout"
        )
    levels = grid(trajectory.sigmas)
    for segment in surrogate.segments:
        span = levels[segment.stop] - levels[segment.start]
        total = math.fsum(segment.weights.values())
        if abs(total - span) > 1e-5 * abs(span):
            raise ValueError(
                f"`surrogate` must have weights that sum to {span:.6g} from step {segment.start} "
                f"to {segment.stop} of the trajectory's grid, got {total:.6g}; draw it with the "
                "sigmas of the rollout"
            )
    if surrogate.horizon > trajectory.taken:
        raise ValueError(
            f"`trajectory` must hold {surrogate.horizon} steps for this surrogate, got "
            f"{trajectory.taken}; roll out with stop=surrogate.horizon, or stop=None for all"
        )


def _prediction(segment: Segment, trajectory: Trajectory) -> Tensor:
    x = trajectory.latents[segment.start]
    for step, w in segment.weights.items():
        x = x + w * trajectory.velocities[step]
    return x


def _residual(segment: Segment, trajectory: Trajectory) -> Tensor:
    x = trajectory.latents
    if segment.stop > trajectory.taken:
        return torch.full((x.shape[1],), torch.nan, dtype=x.dtype, device=x.device)
    gap = (_prediction(segment, trajectory) - x[segment.stop]).abs()
    return gap.reshape(gap.shape[0], -1).mean(dim=1)
