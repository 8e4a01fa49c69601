"""The plain way: build a surrogate's whole graph at once and let autograd differentiate it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from flowbp.core import ParametricVelocity, Segment, Surrogate, Trajectory, VelocityField


def joint_read(velocity: VelocityField, trajectory: Trajectory, surrogate: Surrogate) -> Tensor:
    """What the reward reads, as one differentiable graph of every active velocity.

    `x̂_t = x_s + sum of w_i ṽ_i` with `ṽ_i = gamma_i v_i + (1 - gamma_i) sg(v_i)`, pinned by
    `x_t = x̂_t + sg(cached x_t - x̂_t)`; velocities are evaluated at cached latents, at a joint at
    `alpha x_j + (1 - alpha) sg(x_j)`. It holds every graph at once, so it is for small fields: a
    yardstick for `sweep`, with which it shares no code.

    Args:
        velocity: the field of the rollout, with gradients enabled.
        trajectory: a rollout of at least `surrogate.horizon` steps.
        surrogate: drawn on its grid.

    Returns:
        (B, …), differentiable in whatever the velocity depends on.

    Example:
        >>> from flowbp.core import DRaFT, rollout
        >>> a = torch.tensor(0.5, requires_grad=True)
        >>> field, sigmas = lambda x, sigma: a * x, torch.tensor([1.0, 0.5, 0.0])
        >>> path = rollout(field, torch.ones(1, 1), sigmas)
        >>> surrogate = DRaFT(last=2).draw(sigmas, torch.Generator())
        >>> joint_read(field, path, surrogate).sum().backward()
        >>> a.grad  # d/da (1 - a/2)^2
        tensor(-0.7500)

    Reference: arXiv 2606.11075, section 3.
    """
    x = trajectory.latents[surrogate.segments[0].start]
    for order, segment in enumerate(surrogate.segments):
        damped = surrogate.alpha * x + (1 - surrogate.alpha) * x.detach()
        at_joint = {segment.start: damped} if order > 0 else {}
        x = _integrate(velocity, trajectory, segment, x, at_joint)
        is_last = order == len(surrogate.segments) - 1
        if not (is_last and surrogate.reward_input == "posterior_mean"):
            x = x + (trajectory.latents[segment.stop] - x).detach()
    return x


def joint_gradient(
    velocity: ParametricVelocity,
    params: Mapping[str, Tensor],
    trajectory: Trajectory,
    surrogate: Surrogate,
    loss: Callable[[Tensor], Tensor],
    *,
    penalty: Callable[[Mapping[int, Tensor]], Tensor] | None = None,
) -> dict[str, Tensor]:
    """The parameter gradient of `loss(x)` through a surrogate's joint graph, by one autograd call.

    Args:
        velocity: `velocity(params, latents, sigma)`.
        params: the parameters by name.
        trajectory: the rollout with these parameters.
        surrogate: drawn on its grid.
        loss: what the reward reads, (B, …), to a 0-d tensor.
        penalty: active velocities by step, each (B, …), evaluated at the cached latents and not
            scaled by gamma, to a 0-d tensor that is added to the loss.

    Returns:
        Gradients, a mapping like `params`; zero where the surrogate does not reach a parameter.

    Example:
        >>> from flowbp.core import Sparse, rollout
        >>> params, sigmas = {"a": torch.tensor(0.5)}, torch.tensor([1.0, 0.5, 0.0])
        >>> velocity = lambda p, x, sigma: p["a"] * x
        >>> path = rollout(lambda x, sigma: velocity(params, x, sigma), torch.ones(1, 1), sigmas)
        >>> surrogate = Sparse(active=2).draw(sigmas, torch.Generator())
        >>> joint_gradient(velocity, params, path, surrogate, torch.sum)
        {'a': tensor(-0.8750)}

    Reference: arXiv 2606.11075, section 3.
    """
    leaves = {name: value.detach().clone().requires_grad_() for name, value in params.items()}

    def field(latents: Tensor, sigma: Tensor) -> Tensor:
        return velocity(leaves, latents, sigma)

    total = loss(joint_read(field, trajectory, surrogate))
    if penalty is not None:
        latents, sigmas = trajectory.latents.detach(), trajectory.sigmas
        total = total + penalty({i: field(latents[i], sigmas[i]) for i in surrogate.active_steps})
    return gradients_of(total, leaves)


def gradients_of(value: Tensor, params: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The gradient of a 0-d value by parameter; zero where it does not reach one."""
    gradients = torch.autograd.grad(value, list(params.values()), materialize_grads=True)
    return dict(zip(params, gradients, strict=True))


def anchor_penalty(
    trajectory: Trajectory, reference: VelocityField, strength: float
) -> Callable[[Mapping[int, Tensor]], Tensor]:
    """The reference anchor written plainly, for `joint_gradient`'s `penalty`.

    Args:
        trajectory: at whose latents the reference is evaluated.
        reference: v_ref.
        strength: the factor of the mean.

    Returns:
        Active velocities by step, each (B, …) and of the same latents, to
        `strength · mean (v_i - sg v_ref,i)²`, 0-d.

    Example:
        >>> from flowbp.core import rollout
        >>> path = rollout(lambda x, sigma: x, torch.ones(1, 1), torch.tensor([1.0, 0.0]))
        >>> anchor_penalty(path, lambda x, sigma: 3 * x, 0.5)({0: torch.ones(1, 1)})
        tensor(2.)
    """

    def penalty(velocities: Mapping[int, Tensor]) -> Tensor:
        gaps = [
            v - reference(trajectory.latents[i], trajectory.sigmas[i]).detach()
            for i, v in velocities.items()
        ]
        return strength * torch.stack(gaps).square().mean()

    return penalty


def _integrate(
    velocity: VelocityField,
    trajectory: Trajectory,
    segment: Segment,
    x_start: Tensor,
    inputs: Mapping[int, Tensor],
) -> Tensor:
    x = x_start
    for i, w in segment.weights.items():
        v = trajectory.velocities[i]
        if i in segment.active:
            gamma = segment.active[i]
            v = velocity(inputs.get(i, trajectory.latents[i].detach()), trajectory.sigmas[i])
            v = gamma * v + (1 - gamma) * v.detach()
        x = x + w * v
    return x
