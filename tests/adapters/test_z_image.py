"""What is Z-Image's own: prompts of their own length, its guidance and its refusals."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch

from flowbp.adapters import Conditioning, CutPromptWarning, compile_blocks
from flowbp.adapters.backbone import LENGTHS
from flowbp.prompts import cached
from flowbp.testing import check_backbone, check_parity

from .families import FAMILIES
from .tiny_z_image import z_image_transformer

FAMILY = FAMILIES["z_image"]
# Of one and of three times what the transformer fills a text up to, and of none.
PROMPTS = ["a", "a red box on a green field, and two dots above it, all of it twice", ""]


def encoded(prompts, **options):
    return FAMILY.backbone(text_length=128, **options).encode(prompts)


def call(pipeline, request):
    options = dict(height=request.height, width=request.width, latents=request.latents)
    return pipeline(
        prompt=list(request.prompts),
        num_inference_steps=request.steps,
        guidance_scale=request.guidance - 1,
        max_sequence_length=128,
        output_type=request.output,
        **options,
    ).images


def test_prompts_of_several_lengths_together_equal_the_pipeline():
    backbone = FAMILY.backbone(text_length=128)
    lengths = backbone.encode(PROMPTS).tensors[LENGTHS]
    assert len({(int(each) + 31) // 32 for each in lengths}) > 1
    check_parity(FAMILY.pipeline(), backbone, call, sizes=[(16, 24)], prompts=PROMPTS, steps=3)
    check_backbone(backbone, PROMPTS, height=16, width=16, guidance=3.0)


def test_conditioning_equals_the_pipeline():
    with torch.no_grad():
        rows, _ = FAMILY.pipeline().encode_prompt(
            list(PROMPTS), max_sequence_length=128, do_classifier_free_guidance=False
        )
    tensors = encoded(PROMPTS).tensors
    for row, ours, length in zip(rows, tensors["tokens"], tensors[LENGTHS], strict=True):
        assert torch.equal(ours[:length], row) and not ours[length:].any()


@pytest.mark.parametrize("side", ["left", "right"])
def test_what_a_tokenizer_fills_up_on_either_side_is_left_out(side):
    pipeline = deepcopy(FAMILY.pipeline())
    pipeline.tokenizer.padding_side = side
    with torch.no_grad():
        rows, _ = pipeline.encode_prompt(
            list(PROMPTS), max_sequence_length=128, do_classifier_free_guidance=False
        )
    tensors = FAMILY.backbone(pipeline, text_length=128).encode(PROMPTS).tensors
    for row, ours, length in zip(rows, tensors["tokens"], tensors[LENGTHS], strict=True):
        assert torch.equal(ours[:length], row)


def test_lengths_stay_where_a_call_needs_them():
    conditioning = encoded(PROMPTS).to("meta")
    assert conditioning.tensors["tokens"].device.type == "meta"
    for part in (conditioning, conditioning[1:], conditioning.repeat(2)):
        assert part.tensors[LENGTHS].device.type == "cpu"
    assert (
        conditioning[1:].tensors[LENGTHS].tolist() == encoded(PROMPTS[1:]).tensors[LENGTHS].tolist()
    )


def test_lengths_are_cached_with_the_embeddings(tmp_path):
    backbone = FAMILY.backbone(text_length=128)
    for _ in range(2):
        found = cached(backbone, tmp_path).encode(PROMPTS).tensors
        assert torch.equal(found[LENGTHS], encoded(PROMPTS).tensors[LENGTHS])


def test_nothing_beyond_a_prompt_is_read():
    backbone = FAMILY.backbone(text_length=128)
    conditioning = backbone.encode(PROMPTS)
    tokens = conditioning.tensors["tokens"].clone()
    for row, length in zip(tokens, conditioning.tensors[LENGTHS], strict=True):
        row[length:] = float("nan")
    other = Conditioning({**conditioning.tensors, "tokens": tokens})
    noise = backbone.noise(3, height=16, width=16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        plain, unread = (
            backbone.velocity(each)(noise, torch.tensor(0.5)) for each in (conditioning, other)
        )
    assert torch.equal(plain, unread)


def test_the_guidance_of_the_pipeline_is_one_less():
    backbone = FAMILY.backbone()
    assert backbone.plain_guidance(4.4, "dull") == {
        "guidance_scale": 3.4,
        "negative_prompt": "dull",
    }
    assert backbone.plain_guidance(1.0, "") == {"guidance_scale": 0.0}
    assert backbone.plain_guidance(0.5, "") is None


def test_compiled_blocks_give_the_same_velocity_for_prompts_of_any_length():
    torch._dynamo.reset()
    plain = FAMILY.backbone(deepcopy(FAMILY.pipeline()), text_length=128)
    compiled = FAMILY.backbone(deepcopy(FAMILY.pipeline()), text_length=128)
    assert compile_blocks(compiled.module, backend="aot_eager") == 4
    noise = plain.noise(3, height=16, width=16, generator=torch.Generator().manual_seed(0))
    found = []
    for backbone in (plain, compiled):
        velocity = backbone.velocity(backbone.encode(PROMPTS))(noise, torch.tensor(0.5))
        velocity.square().sum().backward()
        found.append((velocity.detach(), backbone.module.layers[0].attention.to_q.weight.grad))
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, rtol=0, atol=1e-5)


def test_a_cut_prompt_is_reported_with_its_template():
    message = r"a prompt has \d+ tokens and only the first 8 are read; shorten them, or raise"
    with pytest.warns(CutPromptWarning, match=message):
        FAMILY.backbone(text_length=8).encode(["red"])


@pytest.mark.parametrize("length", [0, 225])
def test_text_that_the_transformer_has_no_positions_for_is_refused(length):
    with pytest.raises(ValueError, match=rf"in \[1, 224\], the positions of the tr.*got {length}"):
        FAMILY.backbone(text_length=length)


@pytest.mark.filterwarnings("ignore::flowbp.adapters.CutPromptWarning")
def test_the_longest_text_has_positions():
    backbone = FAMILY.backbone(text_length=224)
    conditioning = backbone.encode(["a" * 300])
    assert conditioning.tensors[LENGTHS].tolist() == [224]
    noise = backbone.noise(1, height=16, width=16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert backbone.velocity(conditioning)(noise, torch.tensor(0.5)).isfinite().all()


def test_sides_beyond_the_positions_are_refused():
    with pytest.raises(ValueError, match="`width` must be at most 128, the reach of the pos"):
        FAMILY.backbone().noise(1, height=16, width=132, generator=torch.Generator())


def test_components_of_another_model_are_refused():
    tokenizer = deepcopy(FAMILY.pipeline().tokenizer)
    tokenizer.chat_template = None
    for components, message in (
        ({"tokenizer": tokenizer}, "must have a tokenizer with a chat template"),
        ({"transformer": z_image_transformer(cap_feat_dim=12)}, "must have hidden_size 12 like"),
        ({"transformer": z_image_transformer(in_channels=16)}, "must decode 16 channels"),
    ):
        with pytest.raises(ValueError, match=message):
            FAMILY.backbone(FAMILY.changed(**components))


def test_an_older_diffusers_samples_on_another_grid(tmp_path, monkeypatch):
    FAMILY.pipeline().save_pretrained(tmp_path)
    monkeypatch.setattr("diffusers.__version__", "0.38.0")
    message = "ZImagePipeline samples as here from diffusers 0.39 on, and this is 0.38.0; run: pip"
    with pytest.raises(ImportError, match=message):
        FAMILY.kind.from_pretrained(tmp_path)
