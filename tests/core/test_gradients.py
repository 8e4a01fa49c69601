"""Per-sample gradients, loss weights, and finite differences of the surrogate itself."""

from __future__ import annotations

import pytest
import torch

from flowbp.core import (
    Bridge,
    Cotangents,
    DRaFT,
    Lagrange,
    LeapAlign,
    Sparse,
    Trajectory,
    exact_vjp,
    functional_pull,
    guided_pull,
    loss_weights,
    module_pull,
    read,
    surrogate_vjp,
    sweep,
)
from flowbp.testing import assert_close, assert_gradients_close, joint_gradient, random_problem

SIGMAS = torch.linspace(1, 0, 7, dtype=torch.float64)
METHODS = [Sparse(active=3), Bridge(active=4, alpha=0.7), Lagrange(alpha=0.7), LeapAlign()]


def draw(method, seed=0):
    return method.draw(SIGMAS, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_vmap_over_surrogate_vjp_gives_per_sample_gradients(method):
    problem = random_problem(SIGMAS, event=(2, 2), batch=5)
    surrogate, path = draw(method), problem.rollout()
    g = torch.randn(path.sample.shape, dtype=torch.float64, generator=torch.Generator())

    def one(latents, velocities, cotangent):
        sample = Trajectory(SIGMAS, latents.unsqueeze(1), velocities.unsqueeze(1))
        return surrogate_vjp(
            problem.field, problem.params, sample, surrogate, cotangent.unsqueeze(0)
        )

    batched = torch.func.vmap(one, in_dims=(1, 1, 0))(path.latents, path.velocities, g)
    whole = surrogate_vjp(problem.field, problem.params, path, surrogate, g)
    for b in range(5):
        alone = one(path.latents[:, b], path.velocities[:, b], g[b])
        assert_gradients_close("sample", {k: v[b] for k, v in batched.items()}, alone, 1e-12)
    assert_gradients_close("sum", {k: v.sum(0) for k, v in batched.items()}, whole, 1e-12)


def test_vmap_over_cotangents_gives_a_jacobian():
    problem = random_problem(SIGMAS, event=(), batch=3)
    surrogate, path = draw(METHODS[1]), problem.rollout()
    rows = torch.func.vmap(
        lambda g: surrogate_vjp(problem.field, problem.params, path, surrogate, g)
    )(torch.eye(3, dtype=torch.float64))
    for b, g in enumerate(torch.eye(3, dtype=torch.float64)):
        alone = surrogate_vjp(problem.field, problem.params, path, surrogate, g)
        assert_gradients_close("row", {k: v[b] for k, v in rows.items()}, alone, 1e-13)


@pytest.mark.parametrize("method", [LeapAlign(tau=0.01), Lagrange(tau=1e-4)], ids=str)
def test_loss_weights_scale_each_samples_gradient_and_carry_none(method):
    problem = random_problem(SIGMAS, batch=4, seed=3)
    surrogate, path = draw(method), problem.rollout()
    weights = loss_weights(surrogate, path)
    assert weights.unique().numel() == 4
    g = weights[:, None] * read(surrogate, path).cos()
    joint = joint_gradient(
        problem.field,
        problem.params,
        path,
        surrogate,
        lambda x: (weights * x.sin().sum(dim=1)).sum(),
    )
    pull = functional_pull(problem.field, problem.params)
    assert_gradients_close("weighted", sweep(surrogate, path, g, pull), joint, 1e-12)


@pytest.mark.parametrize("last", [1, 3, 6])
def test_the_exact_gradient_agrees_with_finite_differences(last):
    problem = random_problem(SIGMAS, event=(2,), batch=2)
    g = torch.tensor([[1.0, -2.0], [0.5, 3.0]], dtype=torch.float64)
    path = problem.rollout()
    gradient = exact_vjp(problem.field, problem.params, path, g, last=last)
    source = torch.Generator().manual_seed(1)
    direction = {
        name: torch.randn(p.shape, generator=source, dtype=torch.float64)
        for name, p in problem.params.items()
    }

    def value(step: float) -> torch.Tensor:
        moved = {name: p + step * direction[name] for name, p in problem.params.items()}
        x = problem.noise
        for i in range(6):
            params = moved if i >= 6 - last else problem.params
            delta = SIGMAS[i + 1] - SIGMAS[i]
            x = x + delta * problem.field(params, x, SIGMAS[i])
        return (g * x).sum()

    wanted = (value(1e-5) - value(-1e-5)) / 2e-5
    along = torch.stack([(gradient[name] * each).sum() for name, each in direction.items()])
    assert_close("directional derivative", along.sum(), wanted, 1e-7)


def test_both_pulls_agree_on_parameters_the_velocity_does_not_use():
    problem = random_problem(SIGMAS)
    params = {**problem.params, "unused": torch.ones(3, dtype=torch.float64)}
    path, surrogate = problem.rollout(), draw(METHODS[0])
    gradients = surrogate_vjp(problem.field, params, path, surrogate, torch.ones_like(path.sample))
    assert set(gradients) == set(params)
    assert not gradients["unused"].any()


def test_module_pulls_accumulate_into_grad():
    problem = random_problem(SIGMAS)
    leaves = {name: p.clone().requires_grad_() for name, p in problem.params.items()}
    path, surrogate = problem.rollout(), draw(METHODS[0])
    pull = module_pull(lambda x, sigma: problem.field(leaves, x, sigma))
    once = surrogate_vjp(
        problem.field, problem.params, path, surrogate, torch.ones_like(path.sample)
    )
    for times in (1, 2):
        sweep(surrogate, path, torch.ones_like(path.sample), pull)
        grads = {name: leaf.grad for name, leaf in leaves.items()}
        assert_gradients_close("grad", grads, {k: times * v for k, v in once.items()}, 1e-13)


def test_a_sweep_works_inside_no_grad_and_inference_rollouts():
    problem = random_problem(SIGMAS)
    path, surrogate = problem.rollout(), draw(METHODS[1])
    leaves = {name: p.clone().requires_grad_() for name, p in problem.params.items()}
    g = torch.ones_like(path.sample)
    outside = surrogate_vjp(problem.field, leaves, path, surrogate, g)
    with torch.no_grad():
        inside = surrogate_vjp(problem.field, leaves, path, surrogate, g)
        sweep(surrogate, path, g, module_pull(lambda x, sigma: problem.field(leaves, x, sigma)))
    assert_gradients_close("no_grad", inside, outside, 0)
    assert_gradients_close(
        "module", {name: leaf.grad for name, leaf in leaves.items()}, outside, 1e-13
    )


def test_a_branch_blind_to_its_latents_does_not_hide_the_other_ones_jacobian():
    """The positive field ignores x, the negative does not: the bridge is the negative's."""
    a = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    b = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    scale, x = 3.0, torch.ones(2, 3, dtype=torch.float64)
    pull = guided_pull(
        module_pull(lambda y, sigma: a * torch.ones_like(y)), module_pull(lambda y, s: b * y), scale
    )
    pulled = pull(x, torch.tensor(0.5), Cotangents(torch.ones_like(x), through_latents=True))
    assert_close("bridge", pulled.latents, (1 - scale) * 0.5 * torch.ones_like(x), 0)


def test_drawing_the_exact_path_needs_no_randomness():
    source = torch.Generator().manual_seed(0)
    state = source.get_state()
    assert DRaFT(last=6).draw(SIGMAS, source) == DRaFT(last=6).draw(SIGMAS, torch.Generator())
    assert torch.equal(source.get_state(), state)
