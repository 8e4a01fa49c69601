"""Adapters in other programs' layouts of names are the same adapters."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import attrs
import diffusers
import pytest
import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from safetensors.torch import save_file
from torch import Tensor

from flowbp.adapters import Lora
from flowbp.adapters.lora_reading import read_lora

from .adapted import TUNED, attached, seeded, velocity_of

pytestmark = pytest.mark.skipif(
    tuple(map(int, diffusers.__version__.split(".")[:2])) < (0, 42),
    reason="older converters of diffusers know fewer layouts",
)

QKV = ("attn.to_q", "attn.to_k", "attn.to_v")
ADDED_QKV = ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj")


def within(block: str, *names: str) -> list[str]:
    return [f"{block}.{name}" for name in names]


# By Black Forest Labs' names the diffusers layers, several where one layer is split.
ATTENTION = {
    "double_blocks.0.img_attn.qkv": within("transformer_blocks.0", *QKV),
    "double_blocks.1.txt_attn.qkv": within("transformer_blocks.1", *ADDED_QKV),
    "double_blocks.0.img_attn.proj": within("transformer_blocks.0", "attn.to_out.0"),
    "double_blocks.1.txt_attn.proj": within("transformer_blocks.1", "attn.to_add_out"),
}
FLUX1 = {
    **ATTENTION,
    "double_blocks.0.img_mlp.0": within("transformer_blocks.0", "ff.net.0.proj"),
    "double_blocks.0.txt_mlp.2": within("transformer_blocks.0", "ff_context.net.2"),
    "double_blocks.1.img_mod.lin": within("transformer_blocks.1", "norm1.linear"),
    "single_blocks.0.linear2": within("single_transformer_blocks.0", "proj_out"),
    "single_blocks.1.modulation.lin": within("single_transformer_blocks.1", "norm.linear"),
    "img_in": ["x_embedder"],
    "time_in.in_layer": ["time_text_embed.timestep_embedder.linear_1"],
    "final_layer.linear": ["proj_out"],
}
FLUX2 = {
    **ATTENTION,
    "double_blocks.0.img_mlp.0": within("transformer_blocks.0", "ff.linear_in"),
    "double_blocks.0.txt_mlp.2": within("transformer_blocks.0", "ff_context.linear_out"),
    "single_blocks.0.linear1": within("single_transformer_blocks.0", "attn.to_qkv_mlp_proj"),
    "single_blocks.1.linear2": within("single_transformer_blocks.1", "attn.to_out"),
    "img_in": ["x_embedder"],
    "final_layer.linear": ["proj_out"],
}
XLABS = {
    "double_blocks.0.processor.qkv_lora1": within("transformer_blocks.0", *QKV),
    "double_blocks.1.processor.qkv_lora2": within("transformer_blocks.1", *ADDED_QKV),
    "double_blocks.0.processor.proj_lora1": within("transformer_blocks.0", "attn.to_out.0"),
    "double_blocks.1.processor.proj_lora2": within("transformer_blocks.1", "attn.to_add_out"),
    "single_blocks.0.processor.qkv_lora": within("single_transformer_blocks.0", *QKV),
    "single_blocks.1.processor.proj_lora": within("single_transformer_blocks.1", "proj_out"),
}
Z_IMAGE = {
    "layers.0.attention.qkv": within("layers.0.attention", "to_q", "to_k", "to_v"),
    "layers.1.attention.out": within("layers.1.attention", "to_out.0"),
    "layers.1.feed_forward.w2": within("layers.1", "feed_forward.w2"),
    "noise_refiner.0.attention.qkv": within("noise_refiner.0.attention", "to_q", "to_k", "to_v"),
}


def same(*names: str) -> dict[str, list[str]]:
    """Layers whose names are those of diffusers."""
    return {name: [name] for name in names}


ONETRAINER = same(
    "transformer_blocks.0.attn.to_q",
    "transformer_blocks.1.attn.add_k_proj",
    "transformer_blocks.0.attn.to_out.0",
    "single_transformer_blocks.1.attn.to_v",
    "x_embedder",
    "proj_out",
)
SD3 = same("transformer_blocks.0.attn.to_q", "transformer_blocks.0.attn2.to_v", "proj_out")
QWEN_IMAGE = same(
    "transformer_blocks.0.attn.to_q",
    "transformer_blocks.0.attn.add_k_proj",
    "transformer_blocks.1.attn.to_out.0",
    "transformer_blocks.1.attn.to_add_out",
    "transformer_blocks.0.img_mlp.net.0.proj",
    "transformer_blocks.1.txt_mod.1",
    "img_in",
    "proj_out",
)
SPLIT_Z_IMAGE = same(
    "layers.0.attention.to_q",
    "layers.0.attention.to_v",
    "layers.1.attention.to_out.0",
    "layers.1.feed_forward.w2",
    "layers.0.adaLN_modulation.0",
    "noise_refiner.0.attention.to_k",
)


def underlined(prefix: str) -> Callable[[str], str]:
    return lambda layer: prefix + layer.replace(".", "_")


def dotted(prefix: str) -> Callable[[str], str]:
    return lambda layer: f"{prefix}.{layer}"


@attrs.frozen
class Layout:
    """How a program names what it trains, and which factor is which."""

    family: str
    layers: dict[str, list[str]]
    name: Callable[[str], str]
    down: str = "lora_down.weight"
    up: str = "lora_up.weight"
    has_alpha: bool = True


PEFT = {"down": "lora_A.weight", "up": "lora_B.weight"}
LAYOUTS = {
    "flux1 kohya": Layout("flux1 dev", FLUX1, underlined("lora_unet_")),
    "flux1 comfy": Layout("flux1 dev", FLUX1, dotted("diffusion_model")),
    "flux1 comfy, A and B": Layout("flux1 dev", FLUX1, dotted("diffusion_model"), **PEFT),
    "flux1 xlabs": Layout("flux1 dev", XLABS, str, "down.weight", "up.weight", has_alpha=False),
    "flux1 onetrainer": Layout("flux1 dev", ONETRAINER, underlined("lora_transformer_")),
    "sd3 base_model": Layout("sd3", SD3, dotted("base_model.model")),
    "sd3 without a prefix": Layout("sd3", SD3, str, "lora.down.weight", "lora.up.weight"),
    "flux2 kohya": Layout("flux2 klein-base", FLUX2, underlined("lora_unet_")),
    "flux2 comfy": Layout("flux2 klein-base", FLUX2, dotted("diffusion_model")),
    "flux2 comfy, A and B": Layout("flux2 klein-base", FLUX2, dotted("diffusion_model"), **PEFT),
    "flux2 base_model": Layout(
        "flux2 klein-base", FLUX2, dotted("base_model.model"), has_alpha=False, **PEFT
    ),
    "z_image kohya": Layout("z_image", SPLIT_Z_IMAGE, underlined("lora_unet_")),
    "z_image comfy, split": Layout("z_image", SPLIT_Z_IMAGE, dotted("diffusion_model"), **PEFT),
    "z_image kohya, fused": Layout("z_image", Z_IMAGE, underlined("lora_unet_")),
    "z_image comfy": Layout("z_image", Z_IMAGE, dotted("diffusion_model")),
    "z_image comfy, A and B": Layout("z_image", Z_IMAGE, dotted("diffusion_model"), **PEFT),
    "qwen_image kohya": Layout("qwen_image", QWEN_IMAGE, underlined("lora_unet_")),
    "qwen_image comfy": Layout("qwen_image", QWEN_IMAGE, dotted("diffusion_model")),
    "qwen_image comfy, A and B": Layout(
        "qwen_image", QWEN_IMAGE, dotted("diffusion_model"), **PEFT
    ),
}
RANK = 4


def files(layout: Layout, folder, transformer=None) -> tuple[str, str]:
    """One adapter in a layout, with a strength of two where it can state one, and in peft's."""
    transformer = transformer or TUNED[layout.family].pipeline().transformer
    linears = dict(transformer.named_modules())
    generator, strength = seeded(7), 2.0 if layout.has_alpha else 1.0
    theirs, ours = {}, {}
    for layer, own in layout.layers.items():
        sizes = [linears[each].out_features for each in own]
        down = torch.randn(RANK, linears[own[0]].in_features, generator=generator)
        up = 0.1 * torch.randn(sum(sizes), RANK, generator=generator)
        name = layout.name(layer)
        theirs |= {f"{name}.{layout.down}": down, f"{name}.{layout.up}": up}
        if layout.has_alpha:
            theirs[f"{name}.alpha"] = torch.tensor(strength * RANK)
        for each, part in zip(own, up.split(sizes), strict=True):
            ours[f"transformer.{each}.lora_A.weight"] = down.clone()
            ours[f"transformer.{each}.lora_B.weight"] = strength * part
    for name, tensors in {"theirs": theirs, "ours": ours}.items():
        save_file(tensors, folder / f"{name}.safetensors")
    return str(folder / "theirs.safetensors"), str(folder / "ours.safetensors")


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_is_read_as_that_of_peft(name, tmp_path):
    layout = LAYOUTS[name]
    family = TUNED[layout.family]
    theirs, ours = (attached(family, Lora(start=start)) for start in files(layout, tmp_path))
    assert theirs.trainable().keys() == ours.trainable().keys()
    for each, parameter in ours.trainable().items():
        assert torch.equal(theirs.trainable()[each], parameter), each
    with torch.no_grad():
        found = velocity_of(theirs)
        assert torch.allclose(found, velocity_of(ours), rtol=0, atol=1e-6)
        base = velocity_of(family.backbone(deepcopy(family.pipeline())))
    assert (found - base).abs().max() > 1e-3


@pytest.fixture(scope="module")
def dev():
    """The transformer of FLUX.1-dev at its real size, without weights."""
    with torch.device("meta"):
        return FluxTransformer2DModel(guidance_embeds=True)


def all_of_flux1() -> dict[str, list[str]]:
    """Every layer that the trainer of fal has."""
    layers = {"final_layer.linear": ["proj_out"]}
    for number in range(19):
        theirs, own = f"double_blocks.{number}", f"transformer_blocks.{number}"
        layers |= {
            f"{theirs}.img_mod.lin": within(own, "norm1.linear"),
            f"{theirs}.txt_mod.lin": within(own, "norm1_context.linear"),
            f"{theirs}.img_attn.qkv": within(own, *QKV),
            f"{theirs}.txt_attn.qkv": within(own, *ADDED_QKV),
            f"{theirs}.img_attn.proj": within(own, "attn.to_out.0"),
            f"{theirs}.txt_attn.proj": within(own, "attn.to_add_out"),
            f"{theirs}.img_mlp.0": within(own, "ff.net.0.proj"),
            f"{theirs}.img_mlp.2": within(own, "ff.net.2"),
            f"{theirs}.txt_mlp.0": within(own, "ff_context.net.0.proj"),
            f"{theirs}.txt_mlp.2": within(own, "ff_context.net.2"),
        }
    for number in range(38):
        theirs, own = f"single_blocks.{number}", f"single_transformer_blocks.{number}"
        layers |= {
            f"{theirs}.modulation.lin": within(own, "norm.linear"),
            f"{theirs}.linear1": within(own, *QKV, "proj_mlp"),
            f"{theirs}.linear2": within(own, "proj_out"),
        }
    return layers


REAL = {
    "kohya": Layout(
        "flux1 dev",
        {"single_blocks.37.linear1": within("single_transformer_blocks.37", *QKV, "proj_mlp")},
        underlined("lora_unet_"),
    ),
    "fal": Layout("flux1 dev", all_of_flux1(), dotted("base_model.model"), has_alpha=False, **PEFT),
}


@pytest.mark.parametrize("name", REAL)
def test_layouts_that_diffusers_knows_at_real_sizes_only(dev, name, tmp_path):
    theirs, ours = (
        read_lora(start, FluxPipeline, dev) for start in files(REAL[name], tmp_path, dev)
    )
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[each], tensor) for each, tensor in ours.items())


def test_the_halves_of_the_last_modulation_change_places(tmp_path):
    width = 32
    down = torch.randn(2, width, generator=seeded(7))
    shift, scale = torch.randn(2, width, 2, generator=seeded(8))
    name = "lora_unet_final_layer_adaLN_modulation_1"
    tensors = {"lora_down": down, "lora_up": torch.cat([shift, scale])}
    save_file(
        {f"{name}.{each}.weight": one for each, one in tensors.items()},
        tmp_path / "one.safetensors",
    )
    found = attached(TUNED["flux1 dev"], Lora(start=str(tmp_path))).trainable()
    (up,) = (each for key, each in found.items() if "norm_out.linear.lora_B" in key)
    assert torch.equal(up, torch.cat([scale, shift]))


def pair(name: str, inner: int = 32, outer: int = 32) -> dict[str, Tensor]:
    return {
        f"{name}.lora_down.weight": torch.ones(2, inner),
        f"{name}.lora_up.weight": torch.ones(outer, 2),
        f"{name}.alpha": torch.tensor(2.0),
    }


KNOWN = pair("lora_unet_double_blocks_0_img_attn_proj")
REFUSED = {
    "sd3 kohya": (
        "sd3",
        pair("lora_unet_joint_blocks_0_x_block_attn_qkv", 16, 48),
        "'lora_unet_joint_blocks_0_x_block_attn_qkv.*in a layout that diffusers does not read",
    ),
    "sd3 comfy": (
        "sd3",
        pair("diffusion_model.joint_blocks.0.x_block.attn.qkv", 16, 48),
        "'diffusion_model.joint_blocks.*in a layout that diffusers does not read",
    ),
    "a layer that a converter skips": (
        "flux2 klein-base",
        KNOWN | pair("lora_unet_double_stream_modulation_img_lin", 32, 192),
        "'lora_unet_double_stream_modulation_img_lin.*leaves out; so it does 2 of 4 tensors",
    ),
    "layers that a converter takes for one": (
        "flux1 dev",
        pair("lora_transformer_transformer_blocks_0_ff_net_0_proj", 32, 128)
        | pair("lora_transformer_transformer_blocks_0_ff_net_2", 128, 32),
        "'lora_transformer_transformer_blocks_0_ff_net_.*leaves out; so it does 2 of 4 tensors",
    ),
    "a difference besides": (
        "flux1 dev",
        KNOWN | {"diffusion_model.img_in.diff_b": torch.ones(32)},
        "'diffusion_model.img_in.diff_b', which .* leaves out; so it does 1 of 3 tensors",
    ),
    "a text encoder besides": (
        "flux1 dev",
        KNOWN | pair("lora_te1_text_model_encoder_layers_0_self_attn_q_proj"),
        "of a text encoder, which is not trained here.*leave them out of the file",
    ),
    "more blocks than there are": (
        "flux1 dev",
        pair("lora_unet_double_blocks_19_img_attn_proj"),
        "converter raises ValueError: Incompatible keys.*double_blocks_19",
    ),
    "blocks of a larger model": (
        "flux1 dev",
        pair("lora_unet_double_blocks_5_img_attn_proj"),
        "'transformer_blocks.5.attn.to_out.0.lora_A.weight', which has no place",
    ),
    "one layer twice, in two layouts": (
        "flux1 dev",
        pair("transformer.transformer_blocks.0.attn.to_q") | pair("transformer_blocks.0.attn.to_q"),
        "twice, as 'transformer.* and 'transformer_blocks.*; leave one adapter in the file",
    ),
    "one layer twice, in two spellings": (
        "flux1 dev",
        KNOWN
        | {
            "lora_unet_double_blocks_0_img_attn_proj.lora_A.weight": torch.ones(2, 32),
            "lora_unet_double_blocks_0_img_attn_proj.lora_B.weight": torch.ones(32, 2),
        },
        "converter raises ValueError: Incompatible keys.*img_attn_proj_lora_A_weight",
    ),
    "control": (
        "flux1 dev",
        KNOWN | {"double_blocks.0.img_attn.norm.query_norm.scale": torch.ones(16)},
        "of a control LoRA and no plain LoRA; its model takes a second picture",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_read_whole_is_refused(name, tmp_path):
    family, tensors, message = REFUSED[name]
    save_file(tensors, tmp_path / "lora.safetensors")
    with pytest.raises(ValueError, match=message):
        attached(TUNED[family], Lora(start=str(tmp_path)))


def test_a_tensor_of_zeros_may_be_left_out(tmp_path):
    nothing = {"diffusion_model.img_in.diff_b": torch.zeros(32)}
    save_file(KNOWN | nothing, tmp_path / "lora.safetensors")
    assert len(attached(TUNED["flux1 dev"], Lora(start=str(tmp_path))).trainable()) == 2
