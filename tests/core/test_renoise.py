"""DRaFT-LV's renoised copies against the batch written out by hand."""

from __future__ import annotations

import pytest
import torch

from flowbp.core import (
    DRaFTLV,
    Sparse,
    functional_pull,
    in_micro_batches,
    module_pull,
    read,
    renoise,
    rollout,
    sweep,
)
from flowbp.testing import TanhField, assert_close, assert_gradients_close

STEPS, BATCH, EVENT = 5, 3, (2, 2)


@pytest.fixture
def conditioned():
    """A field, its parameters, a context for each sample, noise, and a grid."""
    source = torch.Generator().manual_seed(0)
    field = TanhField(EVENT)
    params = field.parameters(source)
    context = torch.randn(BATCH, field.hidden, generator=source, dtype=torch.float64)
    noise = torch.randn(BATCH, *EVENT, generator=source, dtype=torch.float64)
    return field, params, context, noise, torch.linspace(1, 0, STEPS + 1, dtype=torch.float64)


@pytest.mark.parametrize("noised", [0, 1, 3])
@pytest.mark.parametrize("size", [1, 2, 100])
def test_copies_are_samples_of_a_larger_batch(conditioned, noised, size):
    field, params, context, noise, sigmas = conditioned
    surrogate = DRaFTLV(noised=noised).draw(sigmas, torch.Generator())

    def velocity(x, sigma):
        return field(params, x, sigma, context)

    before = rollout(velocity, noise, sigmas)
    path = renoise(surrogate, before, velocity, torch.Generator().manual_seed(9))
    copies = 1 + noised

    # By hand: one sample after another, in an explicit loop.
    source = torch.Generator().manual_seed(9)
    sigma, x_end = sigmas[-2], before.sample
    starts = [before.latents[-2]]
    for _ in range(noised):
        eps = torch.randn(x_end.shape, generator=source, dtype=torch.float64)
        starts.append((1 - sigma) * x_end + sigma * eps)
    leaves = {name: p.clone().requires_grad_() for name, p in params.items()}
    ends = [x - sigma * field(leaves, x, sigma, context) for x in starts]
    target = torch.randn(copies * BATCH, *EVENT, generator=source, dtype=torch.float64)
    x = torch.cat(ends)
    loss = ((x - target) ** 2).sum() / 2
    gradients = torch.autograd.grad(loss, list(leaves.values()))

    assert_close("what the reward reads", read(surrogate, path), x.detach(), 1e-14)
    assert torch.equal(path.sample[:BATCH], before.sample)

    def pull_of(samples):
        repeated = context.repeat(copies, 1)[samples]
        return functional_pull(lambda p, x, s: field(p, x, s, repeated), params)

    streamed = sweep(
        surrogate, path, read(surrogate, path) - target, in_micro_batches(pull_of, size)
    )
    assert_gradients_close("copies", streamed, dict(zip(leaves, gradients, strict=True)), 1e-12)


def test_copies_carry_no_gradient_and_leave_the_rollout_alone(conditioned):
    field, params, context, noise, sigmas = conditioned
    leaves = {name: p.clone().requires_grad_() for name, p in params.items()}

    def velocity(x, sigma):
        return field(leaves, x, sigma, context)

    path = rollout(velocity, noise, sigmas)
    kept = path.latents.clone()
    surrogate = DRaFTLV(noised=2).draw(sigmas, torch.Generator())
    noisier = renoise(surrogate, path, velocity, torch.Generator().manual_seed(0))
    assert torch.equal(path.latents, kept)
    assert not noisier.latents.requires_grad and not noisier.velocities.requires_grad
    for copy in range(3):
        samples = slice(copy * BATCH, (copy + 1) * BATCH)
        assert torch.equal(noisier.latents[:-2, samples], path.latents[:-2])
    sweep(
        surrogate,
        noisier,
        torch.ones_like(noisier.sample),
        module_pull(lambda x, sigma: field(leaves, x, sigma, context.repeat(3, 1))),
    )
    assert leaves["output"].grad is not None


def test_copies_are_a_pure_function_of_the_generator(conditioned):
    field, params, context, noise, sigmas = conditioned

    def velocity(x, sigma):
        return field(params, x, sigma, context)

    path = rollout(velocity, noise, sigmas)
    surrogate = DRaFTLV(noised=2).draw(sigmas, torch.Generator())
    first, again, other = (
        renoise(surrogate, path, velocity, torch.Generator().manual_seed(seed)).sample
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert not torch.equal(first[BATCH : 2 * BATCH], first[2 * BATCH :])


def test_a_surrogate_without_copies_gets_its_trajectory_back(conditioned):
    field, params, context, noise, sigmas = conditioned

    def velocity(x, sigma):
        return field(params, x, sigma, context)

    path = rollout(velocity, noise, sigmas)
    surrogate = Sparse(active=2).draw(sigmas, torch.Generator())
    assert renoise(surrogate, path, velocity, torch.Generator()) is path
