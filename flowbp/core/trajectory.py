"""What a rollout leaves behind: the grid, the latents and the velocities, with no gradient."""

from __future__ import annotations

import itertools
from collections.abc import Collection
from typing import Protocol

import attrs
import torch
from torch import Tensor


class VelocityField(Protocol):
    """All that the core knows of a model: `velocity = field(latents, sigma)`.

    `latents` has shape (B, …), `sigma` is a 0-d tensor, and the velocity has the latents' shape.

    Example:
        >>> def field(latents, sigma):
        ...     return latents * sigma
        >>> rollout(field, torch.ones(2, 3), torch.linspace(1, 0, 5)).sample.shape
        torch.Size([2, 3])
    """

    def __call__(self, latents: Tensor, sigma: Tensor, /) -> Tensor:
        """The velocity of `latents` (B, …) at noise level `sigma`."""
        ...


def grid(sigmas: Tensor) -> list[float]:
    """The noise levels (N+1,) in float64, refused unless they fall from at most 1 to exactly 0."""
    if not isinstance(sigmas, Tensor):
        raise TypeError(
            f"`sigmas` must be a tensor (N+1,), got {type(sigmas).__name__}; use torch.tensor"
        )
    if sigmas.ndim != 1 or sigmas.shape[0] < 2:
        raise ValueError(
            f"`sigmas` must have shape (N+1,) with N >= 1, got {tuple(sigmas.shape)}; "
            "give the N noise levels in sampling order followed by 0"
        )
    levels: list[float] = sigmas.double().tolist()
    if levels[0] > 1:
        raise ValueError(
            f"`sigmas` must be noise levels of at most 1, got {levels[0]:g} first; timesteps of a "
            "scheduler are 1000 times as large: divide them, or take its `sigmas`"
        )
    ordered = all(later < earlier for earlier, later in itertools.pairwise(levels))
    if not ordered or levels[-1] != 0:
        raise ValueError(
            "`sigmas` must fall strictly from at most 1 (noise) to exactly 0 (sample), "
            f"got {[round(level, 6) for level in levels]}; sort them and append 0"
        )
    return levels


@attrs.frozen(eq=False)
class Trajectory:
    """A rollout of N steps, or of its first M steps; step 0 is the noise end.

    `latents[i + 1] = latents[i] + (sigmas[i + 1] - sigmas[i]) * velocities[i]`. Nothing in it
    carries a gradient.

    Args:
        sigmas: (N+1,) noise levels from 1 to 0.
        latents: (M+1, B, …), M <= N.
        velocities: (M, B, …).

    Raises:
        ValueError: the shapes do not fit together, or `sigmas` is not a grid.

    Example:
        >>> sigmas = torch.tensor([1.0, 0.5, 0.0])
        >>> trajectory = rollout(lambda x, sigma: -x, torch.ones(1, 2), sigmas)
        >>> trajectory.steps, trajectory.sample
        (2, tensor([[2.2500, 2.2500]]))

    Reference: arXiv 2606.11075, section 3.
    """

    sigmas: Tensor
    latents: Tensor
    velocities: Tensor

    def __attrs_post_init__(self) -> None:
        steps = len(grid(self.sigmas)) - 1
        taken = self.velocities.shape[0]
        if self.latents.shape[0] != taken + 1 or not 1 <= taken <= steps:
            raise ValueError(
                f"`latents` must hold one step more than `velocities`, and those 1 to {steps} "
                f"steps, got {self.latents.shape[0]} latents and {taken} velocities"
            )
        if self.latents.shape[1:] != self.velocities.shape[1:]:
            raise ValueError(
                f"`velocities` must have the latents' shape {tuple(self.latents.shape[1:])} "
                f"at every step, got {tuple(self.velocities.shape[1:])}"
            )

    @property
    def steps(self) -> int:
        """N, the number of steps of the grid."""
        return self.sigmas.shape[0] - 1

    @property
    def taken(self) -> int:
        """M, the number of steps that the rollout took."""
        return self.velocities.shape[0]

    @property
    def sample(self) -> Tensor:
        """The latents at the end, `x_N`, shape (B, …)."""
        if self.taken < self.steps:
            raise ValueError(
                f"the rollout stopped after {self.taken} of {self.steps} steps and has no sample; "
                "roll out with stop=None, or read a posterior mean"
            )
        return self.latents[-1]

    def posterior_mean(self, step: int) -> Tensor:
        """The sample as predicted at step i in [0, M-1]: `x_i - sigma_i v_i`, shape (B, …)."""
        if not 0 <= step < self.taken:
            raise ValueError(
                f"`step` must be in [0, {self.taken - 1}], got {step}; "
                f"the rollout took {self.taken} of {self.steps} steps"
            )
        sigma = float(self.sigmas[step])
        return self.latents[step] - sigma * self.velocities[step]


def rollout(
    velocity: VelocityField,
    noise: Tensor,
    sigmas: Tensor,
    *,
    stop: int | None = None,
    evaluate: Collection[int] | None = None,
) -> Trajectory:
    """Sample with Euler steps and no gradient, and keep every latent and velocity.

    `x_{i+1} = x_i + (sigma_{i+1} - sigma_i) v_i`, with `v_i = v(x_i, sigma_i)`. Where the field is
    not evaluated, `v_i` is extrapolated linearly in sigma from the last two steps k < m that were,
    `v_m + (sigma_i - sigma_m) (v_m - v_k) / (sigma_m - sigma_k)`, or is `v_m` where there is one.

    Args:
        velocity: the field, called once a step.
        noise: (B, …), the latents at step 0; their dtype is the trajectory's.
        sigmas: (N+1,) from 1 to 0. Keep it on the CPU: its values are read on the host.
        stop: how many steps to take, all N if not given.
        evaluate: the steps at which the field is called, among them 0; all if not given. A
            surrogate needs its `exact_steps` there.

    Returns:
        A trajectory of `stop` steps on the grid `sigmas`.

    Raises:
        ValueError: `stop` is not in [1, N], `evaluate` lacks step 0, `sigmas` is not a grid, or a
            velocity has another shape than the latents.

    Example:
        >>> sigmas = torch.linspace(1, 0, 5)
        >>> rollout(lambda x, sigma: -x, torch.ones(3, 2), sigmas, stop=2).latents.shape
        torch.Size([3, 3, 2])

    Reference: Liu et al., "Flow Straight and Fast", arXiv 2209.03003, section 2.
    """
    levels = grid(sigmas)
    steps = len(levels) - 1
    taken = steps if stop is None else stop
    if not 1 <= taken <= steps:
        raise ValueError(f"`stop` must be in [1, {steps}], got {stop}; the grid has {steps} steps")
    if evaluate is not None and 0 not in evaluate:
        raise ValueError(
            f"`evaluate` must hold step 0, from which the others follow, got {sorted(evaluate)}"
        )
    latents, velocities, known = [noise.detach()], list[Tensor](), list[int]()
    with torch.no_grad():
        for i in range(taken):
            x_i = latents[-1]
            if evaluate is None or i in evaluate:
                velocities.append(evaluated(velocity, x_i, sigmas[i]))
                known = [*known[-1:], i]
            else:
                k, m = known[0], known[-1]
                v_i = velocities[m]
                if k < m:
                    far = (levels[i] - levels[m]) / (levels[m] - levels[k])
                    v_i = v_i + far * (v_i - velocities[k])
                velocities.append(v_i)
            latents.append(x_i + (levels[i + 1] - levels[i]) * velocities[-1])
    return Trajectory(sigmas, torch.stack(latents), torch.stack(velocities))


def evaluated(velocity: VelocityField, latents: Tensor, sigma: Tensor) -> Tensor:
    """A velocity to keep, (B, …), in the latents' dtype: no later call can change it."""
    v = velocity(latents, sigma)
    if v.shape != latents.shape:
        raise ValueError(
            f"`velocity` must return the latents' shape {tuple(latents.shape)}, "
            f"got {tuple(v.shape)}"
        )
    # Fields that replay a CUDA graph return the same buffer at every call, hence the copy; and a
    # low-precision velocity must not pull the latents' arithmetic down with it.
    return v.detach().to(latents.dtype, copy=True)
