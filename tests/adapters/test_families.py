"""Every model family samples, encodes, draws and saves what its diffusers pipeline does."""

from __future__ import annotations

from contextlib import nullcontext
from copy import deepcopy
from functools import partial

import pytest
import torch

from flowbp.adapters import DtypePolicy
from flowbp.core import guided_velocity, rollout
from flowbp.testing import check_parity

from .crossings import crossings
from .families import FAMILIES

PROMPTS = ["a red box", "two dots"]
STEPS = 5
SIZES = [(16, 16), (24, 32)]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return FAMILIES[request.param]


@pytest.fixture(scope="module")
def backbone(family):
    return family.backbone()


def noise_of(backbone, height, width):
    generator = torch.Generator().manual_seed(3)
    return backbone.noise(len(PROMPTS), height=height, width=width, generator=generator)


def sample(backbone, noise, *, scale, height, width):
    positive = backbone.velocity(backbone.encode(PROMPTS))
    velocity = positive
    if scale > 1:
        negative = backbone.velocity(backbone.encode([""]).repeat(len(PROMPTS)))
        velocity = guided_velocity(positive, negative, scale)
    sigmas = backbone.sigmas(STEPS, height=height, width=width)
    return rollout(velocity, noise, sigmas).sample


def test_latents_and_images_equal_the_pipeline(family, backbone):
    check_parity(
        family.pipeline(),
        backbone,
        family.call,
        sizes=SIZES,
        returned=partial(family.published, backbone),
    )


def test_guidance_and_prompt_change_the_sample(backbone):
    noise = noise_of(backbone, 16, 16)
    plain, guided = (sample(backbone, noise, scale=s, height=16, width=16) for s in (1.0, 3.5))
    assert (plain - guided).abs().max() > 1e-3


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_the_schedule_is_the_one_the_pipeline_used(family, backbone, height, width):
    pipeline = family.pipeline()
    for steps in (family.least, 4, 25):
        family.sample(
            pipeline,
            PROMPTS,
            scale=1.0,
            height=height,
            width=width,
            num_inference_steps=steps,
            output_type="latent",
        )
        theirs = pipeline.scheduler.sigmas.clone()
        sigmas = backbone.sigmas(steps, height=height, width=width)
        assert torch.equal(sigmas, backbone.sigmas(steps, height=height, width=width))
        # Z-Image's pipeline makes its even levels in float32, which may differ in the last bit.
        assert torch.allclose(sigmas, theirs, rtol=0, atol=1e-7)
        assert sigmas.dtype == torch.float32 and sigmas.device.type == "cpu"


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_the_noise_is_the_pipelines_from_the_same_generator(family, backbone, height, width):
    # The same steps from the same noise.
    def published(**options):
        return family.sample(
            family.pipeline(),
            PROMPTS,
            scale=1.0,
            height=height,
            width=width,
            num_inference_steps=family.least,
            output_type="latent",
            **options,
        )

    drawn = published(generator=torch.Generator().manual_seed(3))
    given = published(latents=noise_of(backbone, height, width))
    assert torch.equal(drawn, given)
    assert torch.equal(noise_of(backbone, height, width), noise_of(backbone, height, width))


def test_plain_diffusers_and_the_backbone_load_what_was_saved(family, backbone, tmp_path):
    call = dict(height=16, width=24, num_inference_steps=2, output_type="pt", scale=1.0)
    changed = family.backbone(deepcopy(family.pipeline()))
    with torch.no_grad():
        for parameter in changed.trainable().values():
            parameter.mul_(1.05)
    changed.save(tmp_path / "model")
    plain = type(family.pipeline()).from_pretrained(tmp_path / "model", **family.reload)
    plain.set_progress_bar_config(disable=True)
    noise = noise_of(backbone, 16, 24)
    theirs = family.sample(plain, PROMPTS, latents=noise, **call)
    base = family.sample(family.pipeline(), PROMPTS, latents=noise, **call)
    again = family.kind.from_pretrained(
        tmp_path / "model", text_length=family.text_length, **family.options
    )
    for each in (changed, again):
        sigmas = each.sigmas(2, height=16, width=24)
        latents = rollout(each.velocity(each.encode(PROMPTS)), noise, sigmas).sample
        assert torch.allclose(each.decode(latents), theirs, rtol=0, atol=1e-5)
    assert (theirs - base).abs().max() > 1e-3
    assert again.trainable().keys() == backbone.trainable().keys()
    assert not [
        path for path in (tmp_path / "model").rglob("*.json") if "_name_or_path" in path.read_text()
    ]


def test_another_familys_folder_is_refused(family, backbone, tmp_path):
    backbone.save(tmp_path)
    for other in {each.kind for each in FAMILIES.values()} - {family.kind}:
        with pytest.raises(ValueError, match=r"`source` must hold a .*backbone\.name="):
            other.from_pretrained(tmp_path)


def test_parameters_frozen_beforehand_stay_frozen(family):
    pipeline = deepcopy(family.pipeline())
    pipeline.transformer.requires_grad_(False)
    name, parameter = list(pipeline.transformer.named_parameters())[-1]
    parameter.requires_grad_(True)
    assert set(family.backbone(pipeline).trainable()) == {name}


def test_a_velocity_call_moves_nothing_to_the_device(family, monkeypatch):
    conditioning = family.backbone().encode(PROMPTS).to("meta")
    # The meta device has no autocast.
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: nullcontext())
    backbone = family.backbone(deepcopy(family.pipeline()), device="meta")
    latents = noise_of(backbone, 16, 24)
    velocity, sigma = backbone.velocity(conditioning), torch.tensor(0.5)
    with torch.no_grad():
        # Some networks move their tables of positions once.
        velocity(latents, sigma)
    with torch.no_grad(), crossings() as found:
        assert velocity(latents, sigma).shape == latents.shape
    assert found == []


def test_latents_that_do_not_fit_are_refused(backbone):
    velocity, latents = backbone.velocity(backbone.encode(["red"])), noise_of(backbone, 16, 16)
    with pytest.raises(ValueError, match=r"`latents` must be torch.float32, got torch.bfloat16"):
        velocity(latents[:1].bfloat16(), torch.tensor(0.5))
    with pytest.raises(ValueError, match="must have 1 samples like the conditioning, got 2"):
        velocity(latents, torch.tensor(0.5))


@pytest.mark.parametrize("policy", [("float32", "bfloat16"), ("bfloat16", "bfloat16")], ids=str)
def test_the_state_stays_float32_under_every_policy(family, backbone, policy):
    policy = DtypePolicy(*(getattr(torch, name) for name in policy))
    rounded = family.backbone(deepcopy(family.pipeline()), policy=policy)
    assert {p.dtype for p in rounded.module.parameters()} == {policy.weights}
    assert {p.dtype for p in rounded.decoder.vae.parameters()} == {torch.bfloat16}
    noise = noise_of(backbone, 16, 16)
    samples = [sample(each, noise, scale=1.0, height=16, width=16) for each in (rounded, backbone)]
    images = rounded.decode(samples[0])
    assert samples[0].dtype == images.dtype == torch.float32
    assert 0 < (samples[0] - samples[1]).abs().max() < 0.1
    assert (images - backbone.decode(samples[0])).abs().max() < 0.05
