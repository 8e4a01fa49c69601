"""The reference anchor: its value, its cotangent, and what a sweep makes of it."""

from __future__ import annotations

import math

import pytest
import torch

from flowbp.core import (
    Bridge,
    DRaFT,
    DRaFTLV,
    Lagrange,
    Sparse,
    anchor_term,
    functional_pull,
    module_pull,
    read,
    renoise,
    sweep,
)
from flowbp.testing import anchor_penalty, assert_close, random_problem

SIGMAS = torch.linspace(1, 0, 9, dtype=torch.float64)
METHODS = [Sparse(active=3), Bridge(active=4), Lagrange(), DRaFT(last=8), DRaFTLV(noised=2)]


def case(method, event=(2, 3), batch=2):
    """A surrogate, a trajectory with the surrogate's copies, and the problem both are of."""
    generator = torch.Generator().manual_seed(4)
    problem = random_problem(SIGMAS, event=event, batch=batch)
    surrogate = method.draw(SIGMAS, generator)
    return surrogate, renoise(surrogate, problem.rollout(), problem.velocity, generator), problem


def steps_of(surrogate) -> list[int]:
    return [i for segment in surrogate.segments for i in segment.active]


def halved(problem):
    return lambda x, sigma: 0.5 * problem.velocity(x, sigma)


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_values_add_up_to_the_mean_and_cotangents_are_its_gradient(method):
    surrogate, path, problem = case(method)
    reference = halved(problem)
    terms = {i: anchor_term(surrogate, path, i, reference, 0.3) for i in steps_of(surrogate)}
    velocities = {i: path.velocities[i].clone().requires_grad_() for i in terms}
    penalty = anchor_penalty(path, reference, 0.3)(velocities)
    total = torch.stack([term.value for term in terms.values()]).sum()
    assert_close("P", total, penalty.detach(), 1e-14)
    penalty.backward()
    for i, term in terms.items():
        assert term.value.shape == () and not term.cotangent.requires_grad
        assert_close(f"a_{i}", term.cotangent, velocities[i].grad, 1e-14)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_model_itself_as_reference_is_exactly_zero(dtype):
    surrogate, path, problem = case(Bridge(active=4))
    params = {name: p.to(dtype) for name, p in problem.params.items()}

    def field(x, sigma):
        return problem.field(params, x.to(dtype), sigma.to(dtype))

    same = type(problem)(problem.field, params, problem.noise.to(dtype), SIGMAS)
    path = same.rollout()
    for i in steps_of(surrogate):
        term = anchor_term(surrogate, path, i, field, 10.0)
        assert term.value == 0 and not term.cotangent.any()
        assert term.cotangent.dtype == dtype


def test_half_precision_values_are_summed_in_single_precision():
    surrogate, path, _ = case(Sparse(active=1))
    low = type(path)(SIGMAS, path.latents.bfloat16(), torch.ones_like(path.velocities).bfloat16())
    value = anchor_term(surrogate, low, steps_of(surrogate)[0], lambda x, sigma: 0 * x, 1.001).value
    assert value.dtype == torch.float32 and value.item() == pytest.approx(1.001)


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_without_an_anchor_the_numbers_are_the_same_to_the_bit(method):
    """A zero is added where a cotangent is given, and nothing where none is."""
    surrogate, path, problem = case(method)
    g = read(surrogate, path).cos()
    pull = functional_pull(problem.field, problem.params)
    plain = sweep(surrogate, path, g, pull)
    zero = sweep(surrogate, path, g, pull, parameter_cotangent=lambda i: torch.zeros_like(g))
    assert all(torch.equal(plain[name], zero[name]) for name in plain)


def test_descent_on_the_anchor_alone_returns_to_the_reference():
    surrogate, _, problem = case(Sparse(active=8), event=(2,), batch=16)
    leaves = {name: (1.2 * p).requires_grad_() for name, p in problem.params.items()}
    optimizer = torch.optim.Adam(leaves.values(), lr=1e-2)
    values = []
    for _ in range(200):
        moved = type(problem)(problem.field, leaves, problem.noise, SIGMAS).rollout()
        found = [anchor_term(surrogate, moved, i, problem.velocity, 1.0) for i in range(8)]
        values.append(sum(term.value.item() for term in found))
        optimizer.zero_grad()
        sweep(
            surrogate,
            moved,
            torch.zeros_like(moved.sample),
            module_pull(lambda x, sigma: problem.field(leaves, x, sigma)),
            parameter_cotangent=lambda i, found=found: found[i].cotangent,
        )
        optimizer.step()
    assert values[-1] < 1e-3 * values[0]


@pytest.mark.parametrize("strength", [0, -1.0, math.nan, math.inf])
def test_an_illegal_strength_is_refused(strength):
    surrogate, path, problem = case(Sparse())
    with pytest.raises(ValueError, match="`strength` must be a finite number above 0, got"):
        anchor_term(surrogate, path, steps_of(surrogate)[0], problem.velocity, strength)


def test_a_step_without_gradient_is_refused():
    surrogate, path, problem = case(Sparse(active=1))
    other = 0 if steps_of(surrogate) != [0] else 1
    with pytest.raises(ValueError, match=rf"`step` must be one of .* active steps .* got {other}"):
        anchor_term(surrogate, path, other, problem.velocity, 1.0)


def test_a_reference_of_another_shape_is_refused():
    surrogate, path, _ = case(Sparse(active=1))
    with pytest.raises(ValueError, match="`velocity` must return the latents' shape"):
        anchor_term(surrogate, path, steps_of(surrogate)[0], lambda x, sigma: x[:1], 1.0)


def test_a_parameter_cotangent_of_another_shape_is_refused():
    surrogate, path, problem = case(Sparse(active=1))
    pull = functional_pull(problem.field, problem.params)
    message = r"`parameter_cotangent` must return the latents' shape \(2, 2, 3\)"
    with pytest.raises(ValueError, match=message):
        sweep(surrogate, path, path.sample, pull, parameter_cotangent=lambda i: path.sample[:1])
