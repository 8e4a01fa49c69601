"""Each family at its published configuration, on torch's meta device: real weights will fit."""

from __future__ import annotations

import math
from contextlib import nullcontext

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
    FluxPipeline,
    FluxTransformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3Model,
    T5Config,
    T5EncoderModel,
)

from benchmarks.random_backbone import TRANSFORMERS, VAES
from flowbp.adapters import (
    Conditioning,
    Flux1Backbone,
    Flux2Backbone,
    QwenImageBackbone,
    SD3Backbone,
    ZImageBackbone,
)
from flowbp.adapters.backbone import LENGTHS

from ..presets import ROOT
from . import published
from .tiny import clip_tokenizer, t5_tokenizer
from .tiny_flux import qwen_tokenizer

CLASSES = {
    "sd3.5": (SD3Transformer2DModel, published.sd3_shapes),
    "flux1": (FluxTransformer2DModel, published.flux1_shapes),
    "flux2": (Flux2Transformer2DModel, published.flux2_shapes),
    "z_image": (ZImageTransformer2DModel, published.z_image_shapes),
    "qwen_image": (QwenImageTransformer2DModel, published.qwen_image_shapes),
}
NAMES = list(TRANSFORMERS)


def transformer(name):
    kind, shapes = CLASSES[name.split()[0]]
    config = TRANSFORMERS[name]
    with torch.device("meta"):
        return kind.from_config(config), shapes(config)


@pytest.mark.parametrize("name", NAMES)
def test_every_tensor_has_the_name_and_shape_that_the_configuration_declares(name):
    model, expected = transformer(name)
    assert {key: tuple(value.shape) for key, value in model.state_dict().items()} == expected


@pytest.mark.parametrize(
    ("name", "count"),
    # The first as the hub shows it; the second is it without the guidance embedding's 2 layers; the
    # third makes the 40.86 GB of the published files.
    [
        ("flux1 dev", 11_901_408_320),
        ("flux1 schnell", 11_901_408_320 - 257 * 3072 - 3073 * 3072),
        ("qwen_image", 20_430_401_088),
    ],
)
def test_the_number_of_parameters_is_the_published_one(name, count):
    _, expected = transformer(name)
    assert sum(math.prod(shape) for shape in expected.values()) == count


@pytest.mark.parametrize(
    "name, told",
    [
        ("sd3.5 large", "8.06"),
        ("flux1 schnell", "11.89"),
        ("z_image", "6.15"),
        ("qwen_image", "20.43"),
    ],
)
def test_the_docs_round_the_number_of_parameters(name, told):
    count = sum(parameter.numel() for parameter in transformer(name)[0].parameters())
    assert f"{count / 1e9:.2f}" == told
    assert f", {told} billion" in (ROOT / "docs" / "presets.md").read_text()


def test_the_vae_of_flux2_has_as_many_tensors_as_its_file():
    with torch.device("meta"):
        vae = AutoencoderKLFlux2(**VAES["flux2"])
    assert len(vae.state_dict()) == 251


def encoders(name):
    """The text encoders of a pipeline, of real widths but for the vocabulary."""
    layers = dict(num_attention_heads=8, vocab_size=64)
    clip_l, clip_g = (
        CLIPTextConfig(**layers, **each) for each in (published.CLIP_L, published.CLIP_G)
    )
    t5 = T5Config(**published.T5_XXL, vocab_size=64)
    with torch.device("meta"):
        if name == "qwen_image":
            vl = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(**published.QWEN_VL))
            return dict(text_encoder=vl, tokenizer=qwen_tokenizer())
        if name.startswith("sd3.5"):
            return dict(
                text_encoder=CLIPTextModelWithProjection(clip_l),
                tokenizer=clip_tokenizer(),
                text_encoder_2=CLIPTextModelWithProjection(clip_g),
                tokenizer_2=clip_tokenizer(),
                text_encoder_3=T5EncoderModel(t5),
                tokenizer_3=t5_tokenizer(),
            )
        if name.startswith("flux1"):
            return dict(
                text_encoder=CLIPTextModel(clip_l),
                tokenizer=clip_tokenizer(),
                text_encoder_2=T5EncoderModel(t5),
                tokenizer_2=t5_tokenizer(),
            )
        qwen = Qwen3Config(
            num_hidden_layers=36,
            num_attention_heads=32,
            num_key_value_heads=8,
            head_dim=128,
            max_position_embeddings=40960,
            vocab_size=512,
            **published.QWEN3[name],
        )
        kind = Qwen3Model if name == "z_image" else Qwen3ForCausalLM
        return dict(text_encoder=kind(qwen), tokenizer=qwen_tokenizer())


def pipeline(name):
    family = name.split()[0]
    kind, vae = {
        "sd3.5": (StableDiffusion3Pipeline, AutoencoderKL),
        "flux1": (FluxPipeline, AutoencoderKL),
        "flux2": (Flux2KleinPipeline, AutoencoderKLFlux2),
        "z_image": (ZImagePipeline, AutoencoderKL),
        "qwen_image": (QwenImagePipeline, AutoencoderKLQwenImage),
    }[family]
    parts = encoders(name)
    with torch.device("meta"):
        decoder = vae(**VAES[family])
    scheduler = FlowMatchEulerDiscreteScheduler(
        shift=3.0, use_dynamic_shifting=name in ("flux1 dev", "flux2 klein 4B", "flux2 klein 9B")
    )
    return kind(transformer=transformer(name)[0], vae=decoder, scheduler=scheduler, **parts)


@pytest.mark.parametrize("name", NAMES)
def test_a_whole_model_of_real_size_is_accepted_and_its_shapes_fit(name, monkeypatch):
    # The meta device has no autocast.
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: nullcontext())
    family = name.split()[0]
    kind, shape = {
        "sd3.5": (SD3Backbone, (1, 16, 64, 96)),
        "flux1": (Flux1Backbone, (1, 16, 64, 96)),
        "flux2": (Flux2Backbone, (1, 128, 32, 48)),
        "z_image": (ZImageBackbone, (1, 16, 64, 96)),
        "qwen_image": (QwenImageBackbone, (1, 16, 64, 96)),
    }[family]
    backbone = kind.from_pipeline(pipeline(name), device="meta")
    config = TRANSFORMERS[name]
    width = config.get("joint_attention_dim") or config["cap_feat_dim"]
    tensors = {"tokens": torch.empty(1, 512, width, device="meta"), LENGTHS: torch.tensor([40])}
    if "pooled_projection_dim" in config:
        tensors["pooled"] = torch.empty(1, config["pooled_projection_dim"], device="meta")
    noise = backbone.noise(1, height=512, width=768, generator=torch.Generator())
    assert noise.shape == shape
    with torch.no_grad():
        velocity = backbone.velocity(Conditioning(tensors))(noise, torch.tensor(0.5))
        assert velocity.shape == shape
        assert backbone.decode(velocity).shape == (1, 3, 512, 768)
    sigmas = backbone.sigmas(25, height=512, width=512)
    assert sigmas[0] == 1 and sigmas[-1] == 0 and len(sigmas) == 26
