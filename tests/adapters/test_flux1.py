"""What is FLUX.1's own: its two guidances, its text encoders, its refusals."""

from __future__ import annotations

import pytest
import torch
from diffusers.pipelines.flux.pipeline_flux import calculate_shift

from flowbp.adapters import Flux1Backbone
from flowbp.adapters.flux1 import DEFAULT_GUIDANCE

from .families import FAMILIES
from .tiny_flux import clip_text_model, flux1_transformer

PROMPTS = ["a red box", "two dots"]
DEV, SCHNELL = FAMILIES["flux1 dev"], FAMILIES["flux1 schnell"]


def velocity(guidance):
    backbone = Flux1Backbone.from_pipeline(
        DEV.pipeline(), text_length=16, embedded_guidance=guidance
    )
    generator = torch.Generator().manual_seed(0)
    latents = backbone.noise(2, height=16, width=16, generator=generator)
    with torch.no_grad():
        return backbone.velocity(backbone.encode(PROMPTS))(latents, torch.tensor(0.5))


def test_the_embedded_guidance_is_the_pipelines_by_default_and_matters():
    assert torch.equal(velocity(None), velocity(DEFAULT_GUIDANCE))
    assert (velocity(None) - velocity(4.0)).abs().max() > 1e-4
    assert (velocity(0.0) - velocity(4.0)).abs().max() > 1e-4


def test_an_embedded_guidance_that_schnell_would_ignore_is_refused():
    with pytest.raises(ValueError, match=r"`embedded_guidance` must be None.*got 4; leave it out"):
        SCHNELL.backbone(embedded_guidance=4.0)


@pytest.mark.parametrize("guidance", [float("nan"), float("inf")])
def test_an_embedded_guidance_that_is_no_number_is_refused(guidance):
    with pytest.raises(ValueError, match="`embedded_guidance` must be a finite number, got"):
        DEV.backbone(embedded_guidance=guidance)


@pytest.mark.parametrize("length", [1, 16, 512])
def test_conditioning_equals_the_pipeline(length):
    pipeline = DEV.pipeline()
    with torch.no_grad():
        tokens, pooled, _ = pipeline.encode_prompt(PROMPTS, max_sequence_length=length)
    backbone = DEV.backbone(text_length=length)
    if length == 1:
        with pytest.warns(UserWarning, match="a prompt has 11 tokens and only the first 1 are"):
            tensors = backbone.encode(PROMPTS).tensors
    else:
        tensors = backbone.encode(PROMPTS).tensors
    assert torch.equal(tensors["tokens"], tokens) and torch.equal(tensors["pooled"], pooled)
    assert not any(tensor.requires_grad for tensor in tensors.values())


def test_a_prompt_that_only_clip_cuts_is_not_reported(recwarn):
    DEV.backbone(text_length=64).encode(["many many red circles"])
    assert not [each for each in recwarn if "a prompt has" in str(each.message)]


def test_only_the_transformer_is_trained():
    backbone = DEV.backbone()
    assert backbone.trainable().keys() == dict(backbone.transformer.named_parameters()).keys()
    towers = (backbone.text.clip.encoder, backbone.text.t5.encoder, backbone.decoder.vae)
    assert not any(p.requires_grad for module in towers for p in module.parameters())
    assert not any(module.training for module in (*towers, backbone.transformer))


def test_the_shift_follows_the_size_of_the_picture():
    backbone = DEV.backbone()
    small, large = (backbone.sigmas(8, height=size, width=size) for size in (16, 64))
    assert (large[1:-1] > small[1:-1]).all()
    backbone.scheduler.set_timesteps(
        sigmas=[1 - i / 8 for i in range(8)], mu=calculate_shift(16 * 16)
    )
    assert torch.equal(large, backbone.scheduler.sigmas)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ({"height": 18, "width": 16}, "`height`.*multiple of 4, got 18; the nearest are 16 and 20"),
        ({"height": 16, "width": 2}, "`width`.*multiple of 4, got 2; the nearest is 4"),
    ],
)
def test_sizes_the_model_cannot_draw_are_refused(size, message):
    with pytest.raises(ValueError, match=message):
        DEV.backbone().sigmas(4, **size)
    with pytest.raises(ValueError, match=message):
        DEV.backbone().noise(1, **size, generator=torch.Generator())


@pytest.mark.parametrize("length", [0, 513])
def test_illegal_text_lengths_are_refused(length):
    with pytest.raises(ValueError, match=rf"`text_length` must be in \[1, 512\], got {length}"):
        DEV.backbone(text_length=length)


def test_components_of_another_model_are_refused():
    for components, message in (
        ({"text_encoder": clip_text_model(12)}, "`clip` must have hidden_size 8.*got 12"),
        (
            {"transformer": flux1_transformer(joint_attention_dim=40)},
            "`t5` must have d_model 40.*got 32",
        ),
        (
            {"transformer": flux1_transformer(in_channels=32)},
            "`decoder` must decode 8 channels.*got 4; this VAE belongs to another model",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            DEV.backbone(DEV.changed(**components))
