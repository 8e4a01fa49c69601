"""Conformance of velocity fields, and their gradients against finite differences."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from flowbp.core import (
    DRaFT,
    LeapAlign,
    ParametricVelocity,
    Sparse,
    Surrogate,
    VelocityField,
    exact_vjp,
)

from .assertions import assert_close, assert_finite, assert_same_shape
from .methods import check_streamed
from .problem import Problem


def parametric_velocity(module: nn.Module, velocity: VelocityField) -> ParametricVelocity:
    """A field over a module as a function of the module's parameters.

    It is what `functional_pull`, `surrogate_vjp` and the checks here take, made of what a backbone
    gives.

    Args:
        module: the network; its own parameters are not touched.
        velocity: a field that calls the module.

    Returns:
        `velocity(params, latents, sigma)`; parameters that `params` does not name are the module's.

    Example:
        >>> module = nn.Linear(2, 2)
        >>> field = parametric_velocity(module, lambda x, sigma: sigma * module(x))
        >>> params = {"weight": torch.eye(2), "bias": torch.ones(2)}
        >>> field(params, torch.zeros(1, 2), torch.tensor(0.5))
        tensor([[0.5000, 0.5000]])
    """
    held = _Held(module, velocity)

    def parametric(params: Mapping[str, Tensor], latents: Tensor, sigma: Tensor) -> Tensor:
        named = {f"module.{name}": value for name, value in params.items()}
        output: Tensor = torch.func.functional_call(held, named, (latents, sigma))
        return output

    return parametric


class _Held(nn.Module):
    """Calls a field of a module it holds, so that `functional_call` reaches the parameters."""

    def __init__(self, module: nn.Module, velocity: VelocityField) -> None:
        super().__init__()
        self.module = module
        self.velocity = velocity

    def forward(self, latents: Tensor, sigma: Tensor) -> Tensor:
        return self.velocity(latents, sigma)


def check_velocity_field(
    velocity: ParametricVelocity,
    params: Mapping[str, Tensor],
    latents: Tensor,
    sigma: Tensor,
) -> None:
    """Assert that a velocity field is what the core expects.

    The velocity has the latents' shape and dtype, is finite, is the same at every call, and
    leaves its inputs alone.

    Args:
        velocity: `velocity(params, latents, sigma)`; for a module,
            `lambda p, x, sigma: torch.func.functional_call(module, p, (x, sigma))`.
        params: the parameters by name.
        latents: (B, …).
        sigma: 0-d.

    Raises:
        AssertionError: says what does not hold; dropout left on fails the third.

    Example:
        >>> field = lambda p, x, sigma: p["a"] * x
        >>> params = {"a": torch.tensor(2.0)}
        >>> check_velocity_field(field, params, torch.ones(2, 3), torch.tensor(0.5))
    """
    kept = latents.clone()
    with torch.no_grad():
        first, second = (velocity(params, latents, sigma) for _ in range(2))
    assert_same_shape("velocity", first, tuple(latents.shape))
    if first.dtype != latents.dtype:
        raise AssertionError(
            f"`velocity` must return the latents' dtype {latents.dtype}, got {first.dtype}; "
            "cast at the end of the field"
        )
    assert_finite("velocity", first)
    if not torch.equal(first, second):
        raise AssertionError(
            "`velocity` must be deterministic, got two values from one input; "
            "put the module in eval mode, or drop its randomness"
        )
    if not torch.equal(latents, kept):
        raise AssertionError("`velocity` must not change its latents, but it did")


def check_gradients(
    velocity: ParametricVelocity,
    params: Mapping[str, Tensor],
    noise: Tensor,
    sigmas: Tensor,
    *,
    tolerance: float = 1e-10,
    difference_tolerance: float = 1e-6,
    step: float = 1e-5,
    seed: int = 0,
) -> None:
    """Assert that the library differentiates a field correctly.

    The exact gradient of a whole rollout agrees with a central difference along a random
    direction of the parameters; the streamed gradients of Sparse, LeapAlign and DRaFT agree with
    the joint graph's, for both pulls. A field that works under one of `torch.func` and autograd
    only, or that detaches what it should not, fails here.

    Args:
        velocity: `velocity(params, latents, sigma)`.
        params: the parameters by name; float64 for the default tolerances.
        noise: (B, …), in the dtype to check in.
        sigmas: (N+1,), N >= 2.
        tolerance: of streamed against joint, relative.
        difference_tolerance: of the exact gradient against the difference, relative.
        step: of the difference, in units of the parameters.
        seed: of directions, cotangents and draws.

    Raises:
        AssertionError: says which gradient is off, and by how much.

    Example:
        >>> from flowbp.testing import random_problem
        >>> problem = random_problem(torch.linspace(1, 0, 5))
        >>> check_gradients(problem.field, problem.params, problem.noise, problem.sigmas)

    Reference: arXiv 2606.11075, section 3.
    """
    problem = Problem(velocity, dict(params), noise, sigmas)
    generator = torch.Generator().manual_seed(seed)
    _check_difference(problem, generator, difference_tolerance, step)
    surrogates: list[Surrogate] = [
        Sparse(active=2).draw(sigmas, generator),
        LeapAlign(alpha=0.5).draw(sigmas, generator),
        DRaFT(last=sigmas.shape[0] - 1).draw(sigmas, generator),
    ]
    for surrogate in surrogates:
        check_streamed(surrogate, problem, tolerance=tolerance)


def _check_difference(
    problem: Problem, generator: torch.Generator, tolerance: float, step: float
) -> None:
    path = problem.rollout()
    g = torch.randn(problem.noise.shape, generator=generator, dtype=torch.float64)
    g = g.to(problem.noise)
    gradient = exact_vjp(problem.field, problem.params, path, g)
    direction = {
        name: torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p)
        for name, p in problem.params.items()
    }

    def value(offset: float) -> Tensor:
        moved = {name: p.detach() + offset * direction[name] for name, p in problem.params.items()}
        sample = Problem(problem.field, moved, problem.noise, problem.sigmas).rollout().sample
        return (g * sample).sum()

    expected = (value(step) - value(-step)) / (2 * step)
    actual = torch.stack([(gradient[name] * each).sum() for name, each in direction.items()]).sum()
    assert_close("exact gradient along a direction", actual, expected, tolerance)
