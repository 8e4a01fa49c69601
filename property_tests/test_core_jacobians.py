"""How many Jacobian factors a gradient path holds, and where."""

from __future__ import annotations

import math

import attrs
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flowbp.core import (
    DRaFT,
    Surrogate,
    exact_vjp,
    functional_pull,
    surrogate_vjp,
    sweep,
)
from flowbp.testing import (
    Problem,
    assert_affine,
    assert_gradients_close,
    random_problem,
    with_jacobian_scale,
)
from flowbp.testing.strategies import problems, surrogates

from .strategies import published_methods, variants


def gradient_at(problem: Problem, surrogate: Surrogate):
    """Scale of the Jacobian to gradient, the rollout held fixed."""
    path = problem.rollout()
    generator = torch.Generator().manual_seed(2)
    g = torch.randn(problem.noise.shape, generator=generator, dtype=torch.float64)

    def gradient(scale: float):
        field = with_jacobian_scale(problem.field, scale)
        return sweep(surrogate, path, g, functional_pull(field, problem.params))

    return gradient


def is_bridged(surrogate: Surrogate) -> bool:
    """Whether a Jacobian of some joint reaches an active step."""
    return surrogate.alpha > 0 and any(
        segment.active.get(segment.start, 0) > 0
        and any(scale > 0 for each in surrogate.segments[:number] for scale in each.active.values())
        for number, segment in enumerate(surrogate.segments)
    )


@given(problem=problems(), data=st.data())
def test_published_methods_keep_at_most_one_jacobian_factor(problem, data):
    """The gradient of two segments is affine in the field's Jacobian."""
    method = data.draw(published_methods(problem.sigmas.shape[0] - 1))
    surrogate = method.draw(problem.sigmas, torch.Generator().manual_seed(3))
    assert len(surrogate.segments) <= 2
    if not surrogate.noised:
        assert_affine(gradient_at(problem, surrogate))


@given(problem=problems(), data=st.data())
def test_two_segments_keep_at_most_one_jacobian_factor(problem, data):
    surrogate = data.draw(
        surrogates(problem.sigmas, max_segments=2)
        | variants(problem.sigmas)
        .map(lambda method: method.draw(problem.sigmas, torch.Generator().manual_seed(3)))
        .filter(lambda surrogate: len(surrogate.segments) <= 2 and not surrogate.noised)
    )
    assert_affine(gradient_at(problem, surrogate))


@given(problem=problems(), data=st.data())
def test_segments_keep_at_most_one_jacobian_factor_less_than_they_are(problem, data):
    """The gradient of n segments is a polynomial of degree n - 1 in the scale of the Jacobian."""
    surrogate = data.draw(surrogates(problem.sigmas))
    gradient, count = gradient_at(problem, surrogate), len(surrogate.segments)
    nodes = [math.cos(math.pi * (m + 0.5) / count) for m in range(count)]
    at_nodes = [gradient(node) for node in nodes]
    for scale in (0.3, -1.0):
        basis = [
            math.prod((scale - other) / (node - other) for other in nodes if other != node)
            for node in nodes
        ]
        interpolated = {
            name: sum(b * each[name] for b, each in zip(basis, at_nodes, strict=True))
            for name in problem.params
        }
        assert_gradients_close("polynomial", gradient(scale), interpolated, 1e-11)


@given(problem=problems(min_steps=2), alpha=st.floats(0.1, 0.9), data=st.data())
def test_each_jacobian_factor_is_damped_by_alpha(problem, alpha, data):
    """A damped bridge of a field is the whole bridge of a field of a damped Jacobian."""
    surrogate = data.draw(surrogates(problem.sigmas, min_segments=2))
    damped = gradient_at(problem, attrs.evolve(surrogate, alpha=alpha))(1.0)
    whole = gradient_at(problem, attrs.evolve(surrogate, alpha=1.0))(alpha)
    assert_gradients_close("damped", damped, whole, 1e-12)


@given(problem=problems(), data=st.data())
def test_the_jacobian_enters_only_through_an_active_joint(problem, data):
    surrogate = data.draw(surrogates(problem.sigmas))
    gradient = gradient_at(problem, surrogate)
    if not is_bridged(surrogate):
        assert_gradients_close("gradient", gradient(5.0), gradient(0.0), 0)


@pytest.mark.parametrize("steps", [3, 6])
def test_the_exact_gradient_is_not_affine(steps):
    problem = random_problem(torch.linspace(1, 0, steps + 1))
    exact = DRaFT(last=steps).draw(problem.sigmas, torch.Generator())
    with pytest.raises(AssertionError, match="affine"):
        assert_affine(gradient_at(problem, exact))


def test_the_exact_gradient_has_one_jacobian_factor_less_than_steps():
    """It is a polynomial of degree N - 1 in the scale: its N-th difference vanishes."""
    steps = 5
    problem = random_problem(torch.linspace(1, 0, steps + 1))
    path, g = problem.rollout(), torch.ones_like(problem.noise)

    def gradient(scale: float) -> torch.Tensor:
        field = with_jacobian_scale(problem.field, scale)
        return exact_vjp(field, problem.params, path, g)["input"]

    values = torch.stack([gradient(float(s)) for s in range(steps + 1)])
    orders = [values.diff(n=n, dim=0).abs().max() for n in (steps - 1, steps)]
    assert orders[0] > 1e-3 and orders[1] < 1e-9 * values.abs().max()


@given(problem=problems(min_steps=2), data=st.data())
def test_alpha_scales_the_bridge_linearly(problem, data):
    surrogate = data.draw(surrogates(problem.sigmas, min_segments=2, max_segments=2))
    path, g = problem.rollout(), torch.ones_like(problem.noise)

    def gradient(alpha: float):
        changed = Surrogate(surrogate.segments, alpha=alpha, reward_input=surrogate.reward_input)
        return surrogate_vjp(problem.field, problem.params, path, changed, g)

    none, half, whole = gradient(0.0), gradient(0.5), gradient(1.0)
    middle = {name: (none[name] + whole[name]) / 2 for name in none}
    assert_gradients_close("gradient at alpha 0.5", half, middle, 1e-12)
