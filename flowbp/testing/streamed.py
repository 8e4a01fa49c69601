"""Conformance of plans: they read cached values, and their gradient is the joint graph's."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from flowbp.core import (
    Chain,
    FurtherCotangent,
    Plan,
    Trajectory,
    anchor_term,
    functional_pull,
    loss_weights,
    module_pull,
    read,
    renoise,
    sweep,
)

from .comparing import assert_close, assert_finite, assert_gradients_close, assert_same_shape
from .oracle import anchor_penalty, joint_gradient
from .problem import Problem, with_jacobian_scale


def check_streamed(plan: Plan, problem: Problem, *, tolerance: float = 1e-10) -> None:
    """Assert that a plan reads cached values, changes none, and streams the joint gradient.

    With a reference anchor besides, too.

    Args:
        plan: drawn on the problem's grid.
        problem: what it is checked on; float64 for the tolerance's default.
        tolerance: of the gradients, relative to their largest entry.

    Raises:
        AssertionError: says what does not hold.

    Example:
        >>> from flowbp.core import ReFL
        >>> from flowbp.testing import random_problem
        >>> problem = random_problem(torch.linspace(1, 0, 13))
        >>> check_streamed(ReFL().draw(problem.sigmas, torch.Generator()), problem)

    Reference: arXiv 2606.11075, section 3.
    """
    generator = torch.Generator().manual_seed(0)
    before = problem.rollout(plan.horizon)
    path = renoise(plan, before, problem.velocity, generator)
    assert_same_shape(
        "renoised sample",
        path.latents[-1],
        (before.latents.shape[1] * (1 + plan.noised), *before.latents.shape[2:]),
    )
    kept = Trajectory(path.sigmas.clone(), path.latents.clone(), path.velocities.clone())
    _check_read(plan, path)
    target = torch.randn(path.latents.shape[1:], generator=generator, dtype=path.latents.dtype)

    def loss(x: Tensor) -> Tensor:
        return ((x - target) ** 2).sum() / 2

    g = read(plan, path) - target
    joint = joint_gradient(problem.field, problem.params, path, plan, loss)
    for name, gradient in _streamed(problem, path, plan, g).items():
        assert_gradients_close(f"{name} gradient", gradient, joint, tolerance)
    _check_anchored(plan, problem, path, g, loss, tolerance)
    for name in ("sigmas", "latents", "velocities"):
        if not torch.equal(getattr(path, name), getattr(kept, name)):
            raise AssertionError(f"`{name}` of the trajectory must not change, but they did")
    if not isinstance(plan, Chain):
        _check_affine(plan, problem, path, g, tolerance)


def _check_read(plan: Plan, path: Trajectory) -> None:
    x = read(plan, path)
    if plan.reward_input == "sample":
        if not torch.equal(x, path.latents[-1]):
            raise AssertionError("the reward must read the cached sample bit for bit")
    else:
        last = plan.segments[-1]
        moved = [w * path.velocities[i] for i, w in last.weights.items()]
        predicted = path.latents[last.start] + torch.stack(moved).sum(dim=0)
        assert_close("posterior mean", x, predicted, 1e-12)
    weights = loss_weights(plan, path)
    assert_same_shape("loss_weights", weights, (path.latents.shape[1],))
    assert_finite("loss_weights", weights)
    if not bool((weights > 0).all()):
        raise AssertionError(f"`loss_weights` must be positive, got {weights.tolist()}")


def _check_anchored(
    plan: Plan,
    problem: Problem,
    path: Trajectory,
    g: Tensor,
    loss: Callable[[Tensor], Tensor],
    tolerance: float,
) -> None:
    # A strength at which neither the reward's nor the anchor's gradient drowns the other.
    strength = 0.5 * g.numel()
    moved = {name: 0.7 * p for name, p in problem.params.items()}

    def reference(x: Tensor, sigma: Tensor) -> Tensor:
        return problem.field(moved, x, sigma)

    def further(step: int) -> Tensor:
        return anchor_term(plan, path, step, reference, strength).cotangent

    penalty = anchor_penalty(path, reference, strength)
    joint = joint_gradient(problem.field, problem.params, path, plan, loss, penalty=penalty)
    for name, gradient in _streamed(problem, path, plan, g, further).items():
        assert_gradients_close(f"anchored {name} gradient", gradient, joint, tolerance)


def _streamed(
    problem: Problem,
    path: Trajectory,
    plan: Plan,
    g: Tensor,
    further: FurtherCotangent | None = None,
) -> dict[str, Mapping[str, Tensor]]:
    leaves = {name: p.detach().clone().requires_grad_() for name, p in problem.params.items()}
    module = module_pull(lambda x, sigma: problem.field(leaves, x, sigma))
    functional = functional_pull(problem.field, problem.params)
    found = sweep(plan, path, g, functional, further=further)
    sweep(plan, path, g, module, further=further)
    grads = {
        name: torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
        for name, leaf in leaves.items()
    }
    return {"functional": found, "module": grads}


def _check_affine(
    plan: Plan, problem: Problem, path: Trajectory, g: Tensor, tolerance: float
) -> None:
    def gradient(scale: float) -> Mapping[str, Tensor]:
        field = with_jacobian_scale(problem.field, scale)
        return sweep(plan, path, g, functional_pull(field, problem.params))

    assert_affine(gradient, tolerance)


def assert_affine(
    gradient: Callable[[float], Mapping[str, Tensor]], tolerance: float = 1e-10
) -> None:
    """Assert that a gradient is affine in the scale of the field's Jacobian.

    A path with two Jacobian factors would make it quadratic. Checked at 0, 1, 2 and -3.

    Args:
        gradient: scale to gradients, with the rollout held fixed (see `with_jacobian_scale`).
        tolerance: relative to the largest entry.

    Raises:
        AssertionError: it is not affine.

    Example:
        >>> assert_affine(lambda scale: {"a": torch.tensor(2.0 + 3.0 * scale)})

    Reference: arXiv 2606.11075, section 3.
    """
    at_zero, at_one = gradient(0.0), gradient(1.0)
    for scale in (2.0, -3.0):
        line = {name: at_zero[name] + scale * (at_one[name] - at_zero[name]) for name in at_zero}
        assert_gradients_close(
            "gradient as an affine function of the Jacobian", gradient(scale), line, tolerance
        )
