"""The adapter samples what StableDiffusion3Pipeline samples."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from flowbp.adapters import SD3Backbone
from flowbp.core import guided_velocity, rollout

from .tiny import with_scheduler

PROMPTS = ["a red box", "two dots"]
STEPS = 5
TEXT_LENGTH = 16


def sample(backbone, noise, *, guidance, height, width):
    positive = backbone.velocity(backbone.encode(PROMPTS))
    velocity = positive
    if guidance > 1:
        negative = backbone.velocity(backbone.encode([""]).repeat(len(PROMPTS)))
        velocity = guided_velocity(positive, negative, guidance)
    sigmas = backbone.sigmas(STEPS, height=height, width=width)
    return rollout(velocity, noise, sigmas).sample


@pytest.mark.parametrize("t5", [False, True], ids=["clip", "clip+t5"])
@pytest.mark.parametrize("guidance", [1.0, 3.5])
@pytest.mark.parametrize(("height", "width"), [(16, 16), (24, 32)])
@pytest.mark.parametrize(
    "schedule", [{"shift": 3.0}, {"shift": 1.7}, {"use_dynamic_shifting": True}], ids=str
)
def test_latents_and_images_equal_the_pipeline(pipelines, t5, guidance, height, width, schedule):
    pipeline = with_scheduler(pipelines(t5), FlowMatchEulerDiscreteScheduler(**schedule))
    backbone = SD3Backbone.from_pipeline(pipeline, text_length=TEXT_LENGTH)
    generator = torch.Generator().manual_seed(3)
    noise = backbone.noise(len(PROMPTS), height=height, width=width, generator=generator)

    def published(output_type):
        return pipeline(
            PROMPTS,
            height=height,
            width=width,
            num_inference_steps=STEPS,
            guidance_scale=guidance,
            latents=noise,
            max_sequence_length=TEXT_LENGTH,
            output_type=output_type,
        ).images

    latents = sample(backbone, noise, guidance=guidance, height=height, width=width)
    images = backbone.decode(latents)
    assert latents.dtype == images.dtype == torch.float32
    assert torch.allclose(latents, published("latent"), rtol=0, atol=1e-5)
    assert torch.allclose(images, published("pt"), rtol=0, atol=1e-5)
    assert images.shape == (len(PROMPTS), 3, height, width)


@pytest.mark.parametrize("t5", [False, True], ids=["clip", "clip+t5"])
@pytest.mark.parametrize("length", [1, 16, 256])
def test_conditioning_equals_the_pipeline(pipelines, t5, length):
    pipeline = pipelines(t5)
    with torch.no_grad():
        tokens, _, pooled, _ = pipeline.encode_prompt(
            PROMPTS, None, None, do_classifier_free_guidance=False, max_sequence_length=length
        )
    with pytest.warns() if t5 and length == 1 else nullcontext():
        conditioning = SD3Backbone.from_pipeline(pipeline, text_length=length).encode(PROMPTS)
    assert torch.equal(conditioning.tensors["tokens"], tokens)
    assert torch.equal(conditioning.tensors["pooled"], pooled)


def test_pipeline_noise_is_reproduced_from_the_same_generator(pipeline):
    backbone = SD3Backbone.from_pipeline(pipeline)
    noise = backbone.noise(2, height=16, width=24, generator=torch.Generator().manual_seed(1))
    theirs = pipeline.prepare_latents(
        2, 4, 16, 24, torch.float32, "cpu", torch.Generator().manual_seed(1)
    )
    assert torch.equal(noise, theirs)
