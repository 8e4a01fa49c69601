"""At most one Jacobian factor on any gradient path, and exactly where the plan says."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flowbp.core import (
    Chain,
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
from flowbp.testing.strategies import problems, surrogate_methods, surrogates, variants


def gradient_at(problem: Problem, plan: Surrogate | Chain):
    """Scale of the Jacobian to gradient, the rollout held fixed."""
    path = problem.rollout()
    generator = torch.Generator().manual_seed(2)
    g = torch.randn(problem.noise.shape, generator=generator, dtype=torch.float64)

    def gradient(scale: float):
        field = with_jacobian_scale(problem.field, scale)
        return sweep(plan, path, g, functional_pull(field, problem.params))

    return gradient


@given(problem=problems(), data=st.data())
def test_surrogate_gradients_are_affine_in_the_jacobian(problem, data):
    steps = problem.sigmas.shape[0] - 1
    plan = data.draw(
        st.one_of(
            surrogates(problem.sigmas),
            st.one_of(surrogate_methods(steps), variants(problem.sigmas)).map(
                lambda method: method.draw(problem.sigmas, torch.Generator().manual_seed(3))
            ),
        )
    )
    if not plan.noised:
        assert_affine(gradient_at(problem, plan))


@given(problem=problems(), data=st.data())
def test_the_jacobian_enters_only_through_an_active_joint(problem, data):
    plan = data.draw(surrogates(problem.sigmas))
    gradient = gradient_at(problem, plan)
    bridged = (
        len(plan.segments) == 2
        and plan.alpha > 0
        and plan.segments[1].active.get(plan.segments[1].start, 0) > 0
        and any(plan.segments[0].active.values())
    )
    if not bridged:
        assert_gradients_close("gradient", gradient(5.0), gradient(0.0), 0)


@pytest.mark.parametrize("steps", [3, 6])
def test_the_exact_gradient_is_not_affine(steps):
    problem = random_problem(torch.linspace(1, 0, steps + 1))
    chain = Chain((-1 / steps,) * steps, stop=steps)
    with pytest.raises(AssertionError, match="affine"):
        assert_affine(gradient_at(problem, chain))


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
    plan = data.draw(surrogates(problem.sigmas).filter(lambda each: len(each.segments) == 2))
    path, g = problem.rollout(), torch.ones_like(problem.noise)

    def gradient(alpha: float):
        changed = Surrogate(plan.segments, alpha=alpha, reward_input=plan.reward_input)
        return surrogate_vjp(problem.field, problem.params, path, changed, g)

    none, half, whole = gradient(0.0), gradient(0.5), gradient(1.0)
    middle = {name: (none[name] + whole[name]) / 2 for name in none}
    assert_gradients_close("gradient at alpha 0.5", half, middle, 1e-12)
