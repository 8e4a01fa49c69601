"""What is FLUX.2's own: its text encoder, its shift, its normalised latents, its refusals."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from diffusers import Flux2KleinPipeline
from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu

from flowbp.adapters import (
    CutPromptWarning,
    DtypePolicy,
    Flux2Backbone,
    LatentDecoder,
    batch_normalised,
    empirical_shift,
)

from .families import FAMILIES
from .tiny_flux import flux2_pipeline, flux2_transformer, flux2_vae, qwen_encoder

PROMPTS = ["a red box", "two dots", ""]
KLEIN = FAMILIES["flux2 klein-base"]
FLOAT64 = DtypePolicy(torch.float64, torch.float64)


@pytest.mark.parametrize("length", [8, 64, 512])
@pytest.mark.filterwarnings("ignore:a prompt has")
def test_conditioning_equals_the_pipeline(length):
    with torch.no_grad():
        tokens, _ = KLEIN.pipeline().encode_prompt(PROMPTS, max_sequence_length=length)
    ours = KLEIN.backbone(text_length=length).encode(PROMPTS).tensors["tokens"]
    assert torch.equal(ours, tokens) and not ours.requires_grad


def test_a_cut_prompt_is_reported_with_its_template():
    message = r"a prompt has \d+ tokens and only the first 8 are read; shorten them, or raise"
    with pytest.warns(CutPromptWarning, match=message):
        KLEIN.backbone(text_length=8).encode(["red"])


def test_cut_prompts_are_counted_with_their_template():
    tower = KLEIN.backbone().text.qwen
    length = len(tower.tokenizer(KLEIN.backbone().text.written("red")).input_ids)
    for read, cut in ((length, []), (length - 1, [("red", length, length - 1)])):
        found = KLEIN.backbone(text_length=read).text_encoders.cut(["red"])
        assert [(each.prompt, each.tokens, each.read) for each in found] == cut


@pytest.mark.parametrize("image_tokens", [4, 1024, 4300, 4301, 9000])
@pytest.mark.parametrize("steps", [1, 4, 25, 200])
def test_the_shift_is_the_pipelines(image_tokens, steps):
    mu = empirical_shift(KLEIN.pipeline().scheduler, steps=steps, image_tokens=image_tokens)
    assert mu == pytest.approx(compute_empirical_mu(image_tokens, steps), abs=1e-12)


def test_decoding_gradients_are_those_of_finite_differences():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vae = flux2_vae()
    decoder = LatentDecoder(
        vae=vae,
        unscale=batch_normalised,
        policy=FLOAT64,
        decode_batch=1,
        clamp=lambda images: images,
    )
    generator = torch.Generator().manual_seed(1)
    z, direction = torch.randn(2, 3, 16, 2, 3, generator=generator, dtype=torch.float64)

    def loss(latents):
        return decoder(latents).square().sum()

    z.requires_grad_(True)
    (gradient,) = torch.autograd.grad(loss(z), z)
    step = 1e-5
    with torch.no_grad():
        expected = (loss(z + step * direction) - loss(z - step * direction)) / (2 * step)
    assert torch.allclose((gradient * direction).sum(), expected, rtol=1e-7)


def test_the_statistics_of_the_vae_are_used_and_never_updated():
    backbone = KLEIN.backbone(KLEIN.changed(vae=flux2_vae()))
    latents = torch.randn(2, 16, 4, 4, generator=torch.Generator().manual_seed(0))
    bn = backbone.decoder.vae.bn
    before = bn.running_mean.clone(), bn.running_var.clone()
    images = backbone.decode(latents)
    assert torch.equal(bn.running_mean, before[0]) and torch.equal(bn.running_var, before[1])
    bn.running_mean.add_(1.0)
    assert (backbone.decode(latents) - images).abs().max() > 1e-3


@pytest.mark.parametrize("distilled", [False, True])
def test_whether_it_was_distilled_is_kept(tmp_path, distilled):
    backbone = KLEIN.backbone(flux2_pipeline(is_distilled=distilled))
    backbone.save(tmp_path)
    assert backbone.distilled is distilled
    assert Flux2KleinPipeline.from_pretrained(tmp_path).config.is_distilled is distilled
    assert Flux2Backbone.from_pretrained(tmp_path).distilled is distilled


def test_sizes_the_model_cannot_draw_are_refused():
    message = "`height`.*multiple of 4, got 18; the nearest are 16 and 20"
    with pytest.raises(ValueError, match=message):
        KLEIN.backbone().sigmas(4, height=18, width=16)


@pytest.mark.parametrize("length", [0, 513])
def test_illegal_text_lengths_are_refused(length):
    message = rf"`text_length` must be in \[1, 512\], the positions of the Qwen3, got {length}"
    with pytest.raises(ValueError, match=message):
        KLEIN.backbone(text_length=length)


def test_components_of_another_model_are_refused():
    tokenizer = deepcopy(KLEIN.pipeline().tokenizer)
    short = qwen_encoder(tokenizer, layers=20)
    tokenizer.chat_template = None
    for components, message in (
        ({"text_encoder": short}, r"`layers` must be in \[0, 20\].*got \(9, 18, 27\)"),
        ({"tokenizer": tokenizer}, "must have a tokenizer with a chat template"),
        (
            {"transformer": flux2_transformer(joint_attention_dim=32)},
            "`width` must be 24, 3 layers of the Qwen3's 8, got 32",
        ),
        (
            {"transformer": flux2_transformer(in_channels=32)},
            "`decoder` must decode 8 channels.*got 4",
        ),
        (
            {"transformer": flux2_transformer(guidance_embeds=True)},
            "guidance_embeds=False.*that is FLUX.2 dev",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            KLEIN.backbone(KLEIN.changed(**components))


def test_only_a_distilled_checkpoint_has_a_say_in_guidance():
    base, distilled = (KLEIN.backbone(flux2_pipeline(is_distilled=each)) for each in (False, True))
    assert base.guidance_problem(4.0) is None and distilled.guidance_problem(1.0) is None
    assert "is 4, and the checkpoint says that it was distilled" in distilled.guidance_problem(4.0)
