"""The SD3 adapter as a backbone: protocol, gradients, trainable parameters, refusals."""

from __future__ import annotations

from contextlib import nullcontext
from copy import deepcopy

import pytest
import torch

from flowbp.adapters import Backbone, Conditioning, DtypePolicy, SD3Backbone
from flowbp.core import Cotangents, module_pull

from .crossings import crossings
from .tiny import tiny_transformer

FLOAT64 = DtypePolicy(torch.float64, torch.float64)


@pytest.fixture(scope="module")
def backbone(pipeline):
    return SD3Backbone.from_pipeline(pipeline, text_length=0)


@pytest.fixture(scope="module")
def double(pipeline):
    # diffusers computes the variance of a query/key norm in float32 whatever the weights are,
    # which is too coarse for finite differences.
    pipeline = deepcopy(pipeline)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipeline.transformer = tiny_transformer(qk_norm=None)
    return SD3Backbone.from_pipeline(pipeline, policy=FLOAT64, text_length=0)


def noise(backbone, count=1):
    return backbone.noise(count, height=16, width=16, generator=torch.Generator().manual_seed(0))


def test_it_is_a_backbone(backbone):
    assert isinstance(backbone, Backbone)
    assert backbone.module is backbone.transformer
    assert backbone.device == torch.device("cpu")


def test_the_prompt_matters_and_samples_are_independent(backbone):
    latents, sigma = noise(backbone, 2), torch.tensor(0.7)
    conditioning = backbone.encode(["red", "blue"])
    with torch.no_grad():
        both = backbone.velocity(conditioning)(latents, sigma)
        second = backbone.velocity(conditioning[1:])(latents[1:], sigma)
        swapped = backbone.velocity(backbone.encode(["blue", "blue"]))(latents, sigma)
    assert torch.allclose(both[1:], second, rtol=0, atol=1e-5)
    assert (both[0] - swapped[0]).abs().max() > 1e-3


def test_velocity_gradients_are_those_of_finite_differences(double):
    velocity = double.velocity(double.encode(["red"]))
    latents, sigma = noise(double), torch.tensor(0.7)
    generator = torch.Generator().manual_seed(1)
    direction = torch.randn(latents.shape, generator=generator, dtype=torch.float64)
    cotangent = torch.randn(latents.shape, generator=generator, dtype=torch.float64)
    cotangents = Cotangents(cotangent, through_latents=True)
    pulled = module_pull(velocity)(latents, sigma, cotangents)
    step = 1e-5
    with torch.no_grad():
        ahead = velocity(latents + step * direction, sigma)
        behind = velocity(latents - step * direction, sigma)
    expected = ((ahead - behind) * cotangent).sum() / (2 * step)
    assert torch.allclose((pulled.latents * direction).sum(), expected, rtol=1e-7)
    assert all(p.grad is not None for p in double.trainable().values())
    double.module.zero_grad()


def test_checkpointing_does_not_change_the_gradient(double):
    velocity = double.velocity(double.encode(["red"]))

    def gradients(checkpointing):
        SD3Backbone(
            transformer=double.transformer,
            text=double.text,
            decoder=double.decoder,
            scheduler=double.scheduler,
            policy=FLOAT64,
            gradient_checkpointing=checkpointing,
        )
        assert double.transformer.gradient_checkpointing is checkpointing
        loss = velocity(noise(double), torch.tensor(0.3)).square().mean()
        return torch.autograd.grad(loss, list(double.trainable().values()))

    for plain, recomputed in zip(gradients(False), gradients(True), strict=True):
        assert torch.allclose(plain, recomputed, rtol=0, atol=1e-14)


def test_only_the_transformer_is_trained(backbone):
    names = dict(backbone.transformer.named_parameters())
    assert backbone.trainable().keys() == names.keys()
    towers = (backbone.text.clip.encoder, backbone.text.clip_2.encoder, backbone.decoder.vae)
    assert not any(p.requires_grad for module in towers for p in module.parameters())
    assert not any(module.training for module in (*towers, backbone.transformer))


def test_parameters_frozen_beforehand_stay_frozen(pipeline):
    pipeline = deepcopy(pipeline)
    pipeline.transformer.requires_grad_(False)
    pipeline.transformer.proj_out.requires_grad_(True)
    backbone = SD3Backbone.from_pipeline(pipeline)
    assert set(backbone.trainable()) == {"proj_out.weight", "proj_out.bias"}


def test_noise_is_a_function_of_its_generator(backbone):
    assert torch.equal(noise(backbone, 2), noise(backbone, 2))
    assert noise(backbone, 2).shape == (2, 4, 8, 8)
    assert noise(backbone).dtype == torch.float32


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ({"height": 18, "width": 16}, "`height`.*multiple of 4, got 18; the nearest are 16 and 20"),
        ({"height": 16, "width": 2}, "`width`.*multiple of 4, got 2; the nearest is 4"),
        ({"height": 16, "width": 68}, "`width` must be at most 64.*got 68"),
    ],
)
def test_sizes_the_model_cannot_draw_are_refused(backbone, size, message):
    with pytest.raises(ValueError, match=message):
        backbone.sigmas(4, **size)
    with pytest.raises(ValueError, match=message):
        backbone.noise(1, **size, generator=torch.Generator())


def test_no_noise_is_refused(backbone):
    with pytest.raises(ValueError, match="`count` must be at least 1, got 0"):
        noise(backbone, 0)


def test_rounded_latents_are_refused(backbone):
    velocity = backbone.velocity(backbone.encode(["red"]))
    with pytest.raises(ValueError, match=r"`latents` must be torch.float32, got torch.bfloat16"):
        velocity(noise(backbone).bfloat16(), torch.tensor(0.5))


def test_latents_and_conditioning_of_different_batches_are_refused(backbone):
    velocity = backbone.velocity(backbone.encode(["red"]))
    with pytest.raises(ValueError, match="must have 1 samples like the conditioning, got 2"):
        velocity(noise(backbone, 2), torch.tensor(0.5))


def test_a_velocity_call_moves_nothing_to_the_device(pipeline, monkeypatch):
    # The meta device has no autocast.
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: nullcontext())
    backbone = SD3Backbone.from_pipeline(deepcopy(pipeline), device="meta", text_length=0)
    latents = torch.empty(2, 4, 8, 8, device="meta")
    tensors = {"tokens": (2, 12, 32), "pooled": (2, 24)}
    conditioning = Conditioning(
        {name: torch.empty(shape, device="meta") for name, shape in tensors.items()}
    )
    velocity, sigma = backbone.velocity(conditioning), torch.tensor(0.5)
    with torch.no_grad(), crossings() as found:
        assert velocity(latents, sigma).device.type == "meta"
    assert found == []


def test_a_vae_of_another_model_is_refused(pipeline):
    other = deepcopy(pipeline)
    other.transformer = tiny_transformer(in_channels=8)
    with pytest.raises(ValueError, match=r"`decoder` must decode 8 channels.*got 4"):
        SD3Backbone.from_pipeline(other)
