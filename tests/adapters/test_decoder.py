"""Decoding: values, gradients, chunks, and the two clamps."""

from __future__ import annotations

import pytest
import torch

from flowbp.adapters import DtypePolicy, LatentDecoder, hard_clamp, returning_clamp

from .tiny import tiny_vae

FLOAT64 = DtypePolicy(torch.float64, torch.float64)


def unclamped(images):
    return images


@pytest.fixture(scope="module")
def vae():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return tiny_vae().double()


@pytest.fixture
def latents():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(3, 4, 4, 4, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("decode_batch", [None, 2])
def test_gradient_is_that_of_finite_differences(vae, latents, decode_batch):
    decoder = LatentDecoder(vae=vae, policy=FLOAT64, decode_batch=decode_batch, clamp=unclamped)
    generator = torch.Generator().manual_seed(2)
    direction = torch.randn(latents.shape, generator=generator, dtype=torch.float64)

    def loss(z):
        return decoder(z).square().sum()

    z = latents.requires_grad_(True)
    (gradient,) = torch.autograd.grad(loss(z), z)
    step = 1e-5
    with torch.no_grad():
        expected = (loss(z + step * direction) - loss(z - step * direction)) / (2 * step)
    assert torch.allclose((gradient * direction).sum(), expected, rtol=1e-7)


@pytest.mark.parametrize("decode_batch", [1, 2, 3, 7])
def test_chunks_give_the_whole_batch_and_its_gradient(vae, latents, decode_batch):
    whole = LatentDecoder(vae=vae, policy=FLOAT64)
    chunked = LatentDecoder(vae=vae, policy=FLOAT64, decode_batch=decode_batch)
    z = latents.requires_grad_(True)
    expected, images = whole(z), chunked(z)
    assert torch.allclose(images, expected, rtol=0, atol=1e-12)
    for a, b in zip(
        torch.autograd.grad(images.square().sum(), z),
        torch.autograd.grad(expected.square().sum(), z),
        strict=True,
    ):
        assert torch.allclose(a, b, rtol=0, atol=1e-12)


def test_chunks_keep_no_activations_of_the_vae(vae, latents):
    def kept(decode_batch):
        sizes = []

        def pack(tensor):
            sizes.append(tensor.numel())
            return tensor

        decoder = LatentDecoder(vae=vae, policy=FLOAT64, decode_batch=decode_batch)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            decoder(latents.requires_grad_(True))
        return sum(sizes)

    assert kept(1) < kept(None) / 20


def test_decoding_is_scaling_shift_and_half_range(vae, latents):
    config = vae.config
    with torch.no_grad():
        decoded = vae.decode(latents / config.scaling_factor + config.shift_factor).sample
        images = LatentDecoder(vae=vae, policy=FLOAT64)(latents)
    assert torch.equal(images, (decoded / 2 + 0.5).clamp(0, 1))


def test_the_vae_is_frozen(vae):
    LatentDecoder(vae=vae, policy=FLOAT64)
    assert not any(p.requires_grad for p in vae.parameters()) and not vae.training


def test_a_decode_batch_below_one_is_refused(vae):
    with pytest.raises(ValueError, match="`decode_batch` must be at least 1, got 0; None"):
        LatentDecoder(vae=vae, decode_batch=0)


@pytest.mark.parametrize(
    ("clamp", "kept"),
    [
        (hard_clamp, {(-0.5, 1): 0, (-0.5, -1): 0, (0.5, 1): 1, (1.5, 1): 0, (1.5, -1): 0}),
        (returning_clamp, {(-0.5, 1): 0, (-0.5, -1): -1, (0.5, 1): 1, (1.5, 1): 1, (1.5, -1): 0}),
    ],
)
def test_which_gradient_a_clamp_keeps(clamp, kept):
    pixels = torch.tensor([pixel for pixel, _ in kept], requires_grad=True)
    gradients = torch.tensor([float(gradient) for _, gradient in kept])
    clamped = clamp(pixels)
    assert torch.equal(clamped, pixels.detach().clamp(0, 1))
    (received,) = torch.autograd.grad(clamped, pixels, gradients)
    assert received.tolist() == list(kept.values())


def test_the_returning_clamp_works_under_function_transforms():
    pixels = torch.tensor([[-0.5, 0.5, 1.5]])
    gradient = torch.func.vmap(torch.func.grad(lambda x: returning_clamp(x).sum()))(pixels)
    assert gradient.tolist() == [[0, 1, 1]]
