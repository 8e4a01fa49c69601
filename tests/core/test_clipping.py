"""Clipped samples: their norms, and a sweep against autograd with the clip as a hook."""

from __future__ import annotations

import itertools

import pytest
import torch

from flowbp.core import DRaFT, LeapAlign, SampleClip, Sparse, module_pull, rollout, sweep

SIGMAS = torch.linspace(1, 0, 7, dtype=torch.float64)


class Field(torch.nn.Module):
    """A velocity whose Jacobian differs much from sample to sample."""

    def __init__(self):
        super().__init__()
        source = torch.Generator().manual_seed(3)
        weight = torch.randn(4, 4, generator=source, dtype=torch.float64)
        self.weight = torch.nn.Parameter(2 * weight)

    def forward(self, latents, sigma):
        return torch.tanh(latents @ self.weight) * latents + sigma * latents**2


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gradient_of(field, method, cotangent, noise, clip):
    surrogate = method.draw(SIGMAS, torch.Generator().manual_seed(1))
    path = rollout(field, noise, SIGMAS, stop=surrogate.horizon)
    field.weight.grad = None
    sweep(surrogate, path, cotangent, module_pull(field), clip=clip)
    return field.weight.grad


@pytest.mark.parametrize("factor", [0.25, 1.0, 3.0])
def test_no_norm_is_above_the_median_and_smaller_ones_stay(factor):
    cotangents = drawn(9, 2, 3) * torch.logspace(-3, 3, 9, dtype=torch.float64)[:, None, None]
    norms = cotangents.flatten(1).norm(dim=1)
    clipped = SampleClip(factor)(cotangents)
    expected = norms.clamp(max=factor * norms.median())
    torch.testing.assert_close(clipped.flatten(1).norm(dim=1), expected)
    directions = torch.nn.functional.cosine_similarity(clipped.flatten(1), cotangents.flatten(1))
    torch.testing.assert_close(directions, torch.ones_like(directions))


def test_samples_without_a_gradient_do_not_count():
    cotangents = torch.cat([torch.zeros(5, 2), torch.eye(2), torch.full((1, 2), 30.0)])
    clipped = SampleClip()(cotangents)
    torch.testing.assert_close(clipped[:7], cotangents[:7])
    assert clipped[7].norm() == pytest.approx(1.0)
    assert torch.equal(SampleClip()(torch.zeros(3, 2)), torch.zeros(3, 2))


def test_one_sample_is_its_own_median():
    cotangent = 100 * torch.ones(1, 3)
    torch.testing.assert_close(SampleClip()(cotangent), cotangent)


def test_a_cotangent_that_is_not_finite_stays_so():
    cotangents = torch.tensor([[1.0], [2.0], [torch.nan]])
    clipped = SampleClip()(cotangents)
    assert clipped[2].isnan() and torch.equal(clipped[:2], torch.tensor([[1.0], [1.0]]))


def test_with_every_jacobian_it_is_autograd_with_the_clip_as_a_hook():
    field, noise = Field(), drawn(8, 4)
    cotangent = drawn(8, 4, seed=1) * torch.logspace(-2, 2, 8, dtype=torch.float64)[:, None]
    clip = SampleClip(0.8)
    x = noise
    for here, there in itertools.pairwise(SIGMAS):
        x = x + (there - here) * field(x, here)
        x.register_hook(clip)
    (expected,) = torch.autograd.grad((x * cotangent).sum(), [field.weight])
    found = gradient_of(field, DRaFT(last=6), cotangent, noise, clip)
    torch.testing.assert_close(found, expected)
    free = gradient_of(field, DRaFT(last=6), cotangent, noise, None)
    assert (free - found).norm() > 0.1 * found.norm()


@pytest.mark.parametrize("method", [Sparse(active=3), LeapAlign()])
def test_a_clip_that_nothing_reaches_changes_nothing(method):
    field, noise, cotangent = Field(), drawn(4, 4), drawn(4, 4, seed=1)
    clipped = gradient_of(field, method, cotangent, noise, SampleClip(1e12))
    assert torch.equal(clipped, gradient_of(field, method, cotangent, noise, None))


def test_where_no_jacobian_is_kept_it_is_the_sweep_of_the_clipped_cotangent():
    field, noise, clip = Field(), drawn(6, 4), SampleClip()
    cotangent = drawn(6, 4, seed=1) * torch.logspace(-2, 2, 6, dtype=torch.float64)[:, None]
    first = gradient_of(field, Sparse(active=3), cotangent, noise, clip)
    second = gradient_of(field, Sparse(active=3), clip(cotangent), noise, None)
    torch.testing.assert_close(first, second)


@pytest.mark.parametrize("factor", [0.0, -1.0, float("inf"), float("nan")])
def test_a_factor_that_is_no_number_above_0_is_refused(factor):
    with pytest.raises(ValueError, match="`factor`"):
        SampleClip(factor)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_far_longer_ones_are_shortened_in_every_precision(dtype):
    rows = torch.tensor([[1e-3, 0.0], [0.0, 1e-3], [6e4, 6e4]], dtype=dtype)
    clipped = SampleClip()(rows)
    assert clipped.dtype == dtype and torch.equal(clipped[:2], rows[:2])
    assert clipped[2].float().norm().item() == pytest.approx(1e-3, rel=1e-2)


def test_norms_neither_overflow_nor_vanish():
    rows = torch.tensor([[1e20, 1e20], [3e25, 4e25], [1e-30, 0.0]])
    lengths = SampleClip()(rows).double().norm(dim=1)
    torch.testing.assert_close(lengths[:2], torch.full((2,), 2**0.5 * 1e20).double())
    assert SampleClip()(rows)[2].equal(rows[2])


def test_of_an_even_number_the_lower_median_counts():
    clipped = SampleClip()(torch.tensor([[1.0], [-2.0], [4.0], [8.0]]))
    assert clipped.flatten().tolist() == [1.0, -2.0, 2.0, 2.0]


def test_a_clip_that_gives_another_shape_is_refused():
    message = r"`clip` must return the shape that it is given, \(4, 4\), got \(1, 4\)"
    with pytest.raises(ValueError, match=message):
        gradient_of(Field(), DRaFT(last=1), drawn(4, 4), drawn(4, 4), lambda g: g[:1])
