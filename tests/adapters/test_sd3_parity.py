"""The adapter samples what StableDiffusion3Pipeline samples."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from flowbp.adapters import SD3Backbone
from flowbp.testing import call_pipeline, check_parity

from .tiny import with_scheduler

PROMPTS = ["a red box", "two dots"]
TEXT_LENGTH = 16


@pytest.mark.parametrize("t5", [False, True], ids=["clip", "clip+t5"])
@pytest.mark.parametrize(
    "schedule", [{"shift": 3.0}, {"shift": 1.7}, {"use_dynamic_shifting": True}], ids=str
)
def test_latents_and_images_equal_the_pipeline(pipelines, t5, schedule):
    pipeline = with_scheduler(pipelines(t5), FlowMatchEulerDiscreteScheduler(**schedule))
    backbone = SD3Backbone.from_pipeline(pipeline, text_length=TEXT_LENGTH)
    call = partial(call_pipeline, max_sequence_length=TEXT_LENGTH)
    check_parity(pipeline, backbone, call, sizes=[(16, 16), (24, 32)])


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
