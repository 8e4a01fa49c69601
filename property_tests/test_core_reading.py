"""What the reward reads, residuals and loss weights, against their formulas."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from flowbp.core import Surrogate, loss_weights, read, residuals, surrogate_vjp
from flowbp.testing import Problem
from flowbp.testing.strategies import problems

from .strategies import methods, published_methods, variants


def drawn(problem: Problem, data: st.DataObject, choices) -> Surrogate:
    method = data.draw(choices(problem.sigmas))
    return method.draw(problem.sigmas, torch.Generator().manual_seed(5))


@given(problem=problems(), data=st.data())
def test_the_reward_reads_the_cached_value_bit_for_bit(problem, data):
    surrogate = drawn(problem, data, lambda sigmas: methods(len(sigmas) - 1) | variants(sigmas))
    path = problem.rollout(surrogate.horizon)
    x = read(surrogate, path)
    if surrogate.reward_input == "sample":
        assert torch.equal(x, path.latents[-1])
    elif list(surrogate.segments[-1].weights) == [surrogate.segments[-1].start]:
        assert torch.equal(x, path.posterior_mean(surrogate.segments[-1].start))
    else:
        last = surrogate.segments[-1]
        x_hat = path.latents[last.start] + sum(
            w * path.velocities[i] for i, w in last.weights.items()
        )
        assert torch.allclose(x, x_hat, rtol=1e-13, atol=1e-13)
    assert x.shape == problem.noise.shape and not x.requires_grad


@given(problem=problems(), data=st.data())
def test_a_longer_rollout_reads_and_differentiates_the_same(problem, data):
    """Stopping at the horizon drops nothing that matters."""
    surrogate = drawn(problem, data, lambda sigmas: published_methods(len(sigmas) - 1))
    short, long = problem.rollout(surrogate.horizon), problem.rollout()
    assert torch.equal(read(surrogate, short), read(surrogate, long))
    g = torch.ones_like(problem.noise)
    for name, gradient in surrogate_vjp(problem.field, problem.params, short, surrogate, g).items():
        again = surrogate_vjp(problem.field, problem.params, long, surrogate, g)[name]
        assert torch.equal(gradient, again)


@given(problem=problems(), data=st.data())
def test_residuals_and_loss_weights_are_their_formulas(problem, data):
    surrogate = drawn(problem, data, lambda sigmas: methods(len(sigmas) - 1))
    path = problem.rollout()
    wanted = []
    for segment in surrogate.segments:
        x_hat = path.latents[segment.start].clone()
        for i, w in segment.weights.items():
            x_hat += w * path.velocities[i]
        gap = (x_hat - path.latents[segment.stop]).abs()
        wanted.append(torch.stack([each.mean() for each in gap]))
    for actual, expected in zip(residuals(surrogate, path), wanted, strict=True):
        assert torch.allclose(actual, expected, rtol=1e-12, atol=1e-14)
    weights = loss_weights(surrogate, path)
    if surrogate.residual_floor is None:
        assert torch.equal(weights, torch.ones(path.latents.shape[1], dtype=torch.float64))
    else:
        total = sum(d.clamp(min=surrogate.residual_floor) for d in wanted)
        assert torch.allclose(weights * total, torch.ones_like(weights), rtol=1e-12)


@given(problem=problems(), stop=st.integers(1, 8))
def test_a_rollout_is_a_prefix_of_the_longer_one(problem, stop):
    stop = min(stop, problem.sigmas.shape[0] - 1)
    short, long = problem.rollout(stop), problem.rollout()
    assert (short.taken, short.steps) == (stop, long.steps)
    assert torch.equal(short.latents, long.latents[: stop + 1])
    assert torch.equal(long.latents[0], problem.noise)
    for i in range(long.steps):
        x_i, v_i = long.latents[i], long.velocities[i]
        assert torch.equal(v_i, problem.field(problem.params, x_i, problem.sigmas[i]))
        delta = problem.sigmas[i + 1] - problem.sigmas[i]
        assert torch.equal(long.latents[i + 1], x_i + delta * v_i)
