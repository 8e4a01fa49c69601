"""What is Qwen-Image's own: its template, its guidance, the VAE of videos, its refusals."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch

from flowbp.adapters import Conditioning, CutPromptWarning, DtypePolicy, compile_backbone
from flowbp.adapters.backbone import LENGTHS, guided_field
from flowbp.adapters.compilation import is_compiled
from flowbp.adapters.qwen_image import patch_norms_kept
from flowbp.core import Bridge, Linear, draw_surrogate, guided_velocity, rollout
from flowbp.testing import check_parity
from flowbp.testing.oracle import joint_read
from flowbp.training import Batching, Streams, TrainingSampling, TrainingStep, cost

from .families import FAMILIES
from .tiny_qwen_image import qwen_image_transformer, qwen_image_vae, qwen_vl_encoder

FAMILY = FAMILIES["qwen_image"]
FLOAT64 = DtypePolicy(torch.float64, torch.float64)
PROMPTS = ["a", "a red box on a green field", ""]


def call(pipeline, request):
    options = dict(height=request.height, width=request.width, output_type=request.output)
    return pipeline(
        prompt=list(request.prompts),
        negative_prompt=["", "", ""],
        true_cfg_scale=request.guidance,
        num_inference_steps=request.steps,
        max_sequence_length=64,
        latents=FAMILY.packed(request.latents),
        **options,
    ).images


def test_a_patch_without_velocity_stays_so():
    guided = torch.zeros(1, 2, 2, 4, requires_grad=True)
    found = patch_norms_kept(guided, torch.ones(1, 2, 2, 4))
    (gradient,) = torch.autograd.grad(found.sum(), guided)
    assert not found.any() and gradient.isfinite().all()


def test_prompts_of_several_lengths_together_equal_the_pipeline():
    check_parity(
        FAMILY.pipeline(),
        FAMILY.backbone(),
        call,
        sizes=[(16, 24)],
        prompts=PROMPTS,
        steps=3,
        returned=FAMILY.packed,
    )


@pytest.mark.parametrize("side", ["left", "right"])
def test_conditioning_equals_the_pipeline(side):
    pipeline = deepcopy(FAMILY.pipeline())
    pipeline.tokenizer.padding_side = side
    with torch.no_grad():
        theirs, mask = pipeline.encode_prompt(PROMPTS)
    tensors = FAMILY.backbone(pipeline).encode(PROMPTS).tensors
    lengths = tensors[LENGTHS]
    assert lengths.tolist() == mask.sum(1).tolist() and len(set(lengths.tolist())) == 3
    for ours, row, length in zip(tensors["tokens"], theirs, lengths, strict=True):
        assert torch.allclose(ours[:length], row[:length], rtol=0, atol=1e-6)
        assert not ours[length:].any()


def test_nothing_beyond_a_prompt_is_read():
    backbone = FAMILY.backbone()
    conditioning = backbone.encode(PROMPTS)
    tokens = conditioning.tensors["tokens"].clone()
    for row, length in zip(tokens, conditioning.tensors[LENGTHS], strict=True):
        row[length:] = 1e3
    other = Conditioning({**conditioning.tensors, "tokens": tokens})
    noise = backbone.noise(3, height=16, width=16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        plain, unread = (
            backbone.velocity(each)(noise, torch.tensor(0.5)) for each in (conditioning, other)
        )
    assert torch.allclose(plain, unread, rtol=0, atol=1e-6)


def test_a_guided_patch_has_the_norm_that_it_has_without_guidance():
    generator = torch.Generator().manual_seed(0)
    guided, positive = torch.randn(2, 3, 4, 6, 8, generator=generator).double()
    found = patch_norms_kept(guided, positive)
    for b, i, j in [(0, 0, 0), (2, 4, 6), (1, 2, 4)]:
        patch = (b, slice(None), slice(i, i + 2), slice(j, j + 2))
        assert torch.allclose(found[patch].norm(), positive[patch].norm())
        direction = guided[patch] / guided[patch].norm()
        assert torch.allclose(found[patch] / found[patch].norm(), direction)


@pytest.mark.parametrize("detached", [True, False])
@pytest.mark.parametrize("pull", [1, 2])
def test_a_step_has_the_gradient_of_the_rescaled_path(detached, pull):
    """Against autograd through the joint graph of all active steps, in float64."""
    backbone = FAMILY.backbone(deepcopy(FAMILY.pipeline()), policy=FLOAT64)
    sampling = TrainingSampling(
        steps=4, guidance=3.0, height=16, width=16, detach_negative=detached
    )
    step = TrainingStep(
        backbone=backbone,
        reward=lambda images, prompts: images[:, 0].mean((1, 2)),
        method=Bridge(active=2),
        shape=Linear(),
        sampling=sampling,
        batching=Batching(2, pull=pull),
    )
    result = step(PROMPTS[:2], Streams.of(0))
    streamed = {n: p.grad.clone() for n, p in backbone.trainable().items() if p.grad is not None}
    backbone.module.zero_grad()
    positive, negative = backbone.encode(PROMPTS[:2]), backbone.encode([""])
    branches = backbone.velocity(positive), backbone.velocity(negative.repeat(2))
    if detached:
        branches = branches[0], torch.no_grad()(branches[1])
    field = guided_velocity(*branches, 3.0, rescale=patch_norms_kept)
    noise = backbone.noise(2, height=16, width=16, generator=Streams.of(0).noise)
    sampled = guided_field(backbone.velocity, positive, negative, 3.0, rescale=patch_norms_kept)
    trajectory = rollout(sampled, noise, step.sigmas)
    surrogate = draw_surrogate(step.method, step.sigmas, Streams.of(0).surrogate)
    (joint_read(field, trajectory, surrogate) * result.scores.cotangent).sum().backward()
    for name, gradient in streamed.items():
        assert torch.allclose(gradient, backbone.trainable()[name].grad, rtol=0, atol=1e-10)
    assert any(bool(each.any()) for each in streamed.values())
    # The negative branch of each of the 2 pulls, where it is detached.
    plain = cost(surrogate, sampling)
    assert result.cost.forward - plain.forward == (2 if detached else 0)
    assert result.cost.backward == plain.backward


def test_a_pictures_gradient_reaches_its_latents():
    backbone = FAMILY.backbone(deepcopy(FAMILY.pipeline()), decode_batch=1)
    latents = torch.randn(2, 4, 8, 12, generator=torch.Generator().manual_seed(0))
    latents.requires_grad_(True)
    images = backbone.decode(latents)
    assert images.shape == (2, 3, 16, 24)
    (gradient,) = torch.autograd.grad(images[:1].sum(), latents)
    assert gradient[0].any() and not gradient[1].any()


def test_its_decoder_is_left_where_the_blocks_are_compiled():
    backbone = FAMILY.backbone(deepcopy(FAMILY.pipeline()))
    compile_backbone(backbone, backend="eager")
    assert is_compiled(backbone.module) and not is_compiled(backbone.decoder.vae.decoder)
    assert backbone.decode(torch.zeros(1, 4, 8, 8)).isfinite().all()


def test_what_its_pipeline_is_told():
    backbone = FAMILY.backbone()
    assert backbone.plain_guidance(4.0, "") == {"true_cfg_scale": 4.0, "negative_prompt": ""}
    assert backbone.plain_guidance(1.0, "") == {"true_cfg_scale": 1.0}
    assert backbone.plain_guidance(0.5, "") is None


def test_a_single_step_is_refused():
    message = "`steps` must be at least 2, got 1: the model's scheduler stretches its grid"
    with pytest.raises(ValueError, match=message):
        FAMILY.backbone().sigmas(1, height=16, width=16)


def test_a_cut_prompt_is_reported_and_counted_with_its_template():
    backbone = FAMILY.backbone(text_length=16)
    message = r"a prompt has \d+ tokens and only the first 50 are read; shorten them, or raise"
    with pytest.warns(CutPromptWarning, match=message):
        backbone.encode(["red and blue"])
    (cut,) = backbone.text_encoders.cut(["red and blue", "r"])
    assert cut.prompt == "red and blue" and cut.read == 50


@pytest.mark.parametrize("length", [0, 1025])
def test_illegal_text_lengths_are_refused(length):
    with pytest.raises(ValueError, match=rf"`text_length` must be in \[1, 1024\], got {length}"):
        FAMILY.backbone(text_length=length)


def test_components_of_another_model_are_refused():
    tokenizer = FAMILY.pipeline().tokenizer
    statistics = dict(latents_mean=[0.0] * 8, latents_std=[1.0] * 8)
    for components, message in (
        ({"text_encoder": qwen_vl_encoder(tokenizer, width=32)}, "must have hidden_size 16 like"),
        ({"vae": qwen_image_vae(z_dim=8, **statistics)}, "must decode 4 channels.*got 8"),
        ({"transformer": qwen_image_transformer(guidance_embeds=True)}, "guidance_embeds=False"),
    ):
        with pytest.raises(ValueError, match=message):
            FAMILY.backbone(FAMILY.changed(**components))
