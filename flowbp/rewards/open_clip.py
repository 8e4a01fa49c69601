"""CLIP checkpoints in the keys of open_clip: their sizes, and loading one as a CLIPModel."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import torch
from torch import Tensor

from flowbp.extras import require
from flowbp.rewards.weight_files import check_layout, read_weights
from flowbp.validators import integer

if TYPE_CHECKING:
    from transformers import CLIPConfig, CLIPModel

Layout = dict[str, tuple[int, ...]]

_BLOCK = {"ln_1": "layer_norm1", "ln_2": "layer_norm2"} | {
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_REST = {
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    # transformers' own spelling.
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
    "logit_scale": "logit_scale",
}
_TRANSPOSED = {
    "text_projection": "text_projection.weight",
    "visual.proj": "visual_projection.weight",
}


@attrs.frozen(kw_only=True)
class TransformerSizes:
    """One of the two transformers of a CLIP model.

    Args:
        width: of its residual stream.
        hidden: width inside its feed-forward layers.
        layers: blocks.
        heads: of its attention, a divisor of `width`.
    """

    width: int = attrs.field(validator=integer(1))
    hidden: int = attrs.field(validator=integer(1))
    layers: int = attrs.field(validator=integer(1))
    heads: int = attrs.field(validator=integer(1))

    def __attrs_post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"`heads` must divide `width` {self.width}, got {self.heads}")


@attrs.frozen(kw_only=True)
class ClipArchitecture:
    """Sizes of a CLIP model with a vision transformer; activation and norms are as in open_clip.

    Args:
        vision: the transformer over patches.
        text: the transformer over tokens.
        projection: dimensions D of the common embedding.
        image: pixels along a side.
        patch: pixels along a side of a patch.
        vocabulary: tokens, the last two of which mark start and end.
        positions: tokens read at most.

    Source: open_clip, model_configs/ViT-H-14.json.
    """

    vision: TransformerSizes
    text: TransformerSizes
    projection: int = attrs.field(validator=integer(1))
    image: int = attrs.field(default=224, validator=integer(1))
    patch: int = attrs.field(default=14, validator=integer(1))
    vocabulary: int = attrs.field(default=49408, validator=integer(3))
    positions: int = attrs.field(default=77, validator=integer(2))

    def __attrs_post_init__(self) -> None:
        if self.image % self.patch:
            raise ValueError(f"`patch` must divide `image` {self.image}, got {self.patch}")

    def config(self) -> CLIPConfig:
        """The configuration of transformers' model of these sizes."""
        text = _options(self.text) | {
            "vocab_size": self.vocabulary,
            "max_position_embeddings": self.positions,
            "bos_token_id": self.vocabulary - 2,
            "eos_token_id": self.vocabulary - 1,
        }
        vision = _options(self.vision) | {"image_size": self.image, "patch_size": self.patch}
        kind = require("transformers").CLIPConfig
        config: CLIPConfig = kind(
            text_config=text, vision_config=vision, projection_dim=self.projection
        )
        return config

    def layout(self) -> Layout:
        """Shapes by key, as in a checkpoint of open_clip."""
        width, wide = self.text.width, self.vision.width
        return {
            "positional_embedding": (self.positions, width),
            "text_projection": (width, self.projection),
            "logit_scale": (),
            "visual.class_embedding": (wide,),
            "visual.positional_embedding": ((self.image // self.patch) ** 2 + 1, wide),
            "visual.proj": (wide, self.projection),
            "visual.conv1.weight": (wide, 3, self.patch, self.patch),
            **_norm("visual.ln_pre", wide),
            **_blocks("visual.transformer", self.vision),
            **_norm("visual.ln_post", wide),
            **_blocks("transformer", self.text),
            "token_embedding.weight": (self.vocabulary, width),
            **_norm("ln_final", width),
        }


VIT_H_14 = ClipArchitecture(
    vision=TransformerSizes(width=1280, hidden=5120, layers=32, heads=16),
    text=TransformerSizes(width=1024, hidden=4096, layers=24, heads=16),
    projection=1024,
)
"""The architecture of HPSv2 and PickScore."""


def load_open_clip(path: Path, architecture: ClipArchitecture, *, dtype: torch.dtype) -> CLIPModel:
    """Load a checkpoint in open_clip's keys, on the CPU.

    Args:
        path: a file of ``torch.save`` or safetensors; its keys may all begin with ``model.``.
        architecture: what it must be.
        dtype: of the weights; those of the file are cast.

    Raises:
        ModuleNotFoundError: transformers is not installed.
        ValueError: a damaged file, or another model in it.
    """
    weights = dict(read_weights(path))
    if weights and all(key.startswith("model.") for key in weights):
        weights = {key.removeprefix("model."): value for key, value in weights.items()}
    # The causal mask, which some versions saved, is no weight.
    weights.pop("attn_mask", None)
    what = "a CLIP model of these sizes in open_clip's keys"
    check_layout(weights, architecture.layout(), path=path, what=what)
    # On the meta device, because drawing a billion weights that are then replaced takes long.
    with torch.device("meta"):
        model: CLIPModel = require("transformers").CLIPModel(architecture.config())
    fitting = {key: value.to(dtype) for key, value in renamed(weights).items()}
    model.load_state_dict(fitting, strict=True, assign=True)
    # Numbers of positions are no weights, so no file fills them.
    for part in (model.text_model.embeddings, model.vision_model.embeddings):
        count = part.position_embedding.num_embeddings
        part.register_buffer("position_ids", torch.arange(count)[None], persistent=False)
    return model


def renamed(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights in open_clip's keys under those of CLIPModel: the same tensors, some transposed.

    Those of attention's inputs, which open_clip joins, come apart in three.
    """
    found: dict[str, Tensor] = {}
    for key, value in weights.items():
        if key in _TRANSPOSED:
            found[_TRANSPOSED[key]] = value.T.contiguous()
        elif key in _REST:
            found[_REST[key]] = value
        else:
            found.update(_renamed_block(key, value))
    return found


def _options(sizes: TransformerSizes) -> dict[str, int | str | float]:
    return {
        "hidden_size": sizes.width,
        "intermediate_size": sizes.hidden,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5,
    }


def _norm(name: str, width: int) -> Layout:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _linear(name: str, inputs: int, outputs: int) -> Layout:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _blocks(name: str, sizes: TransformerSizes) -> Layout:
    width, layout = sizes.width, Layout()
    for number in range(sizes.layers):
        block = f"{name}.resblocks.{number}"
        layout |= {
            **_norm(f"{block}.ln_1", width),
            f"{block}.attn.in_proj_weight": (3 * width, width),
            f"{block}.attn.in_proj_bias": (3 * width,),
            **_linear(f"{block}.attn.out_proj", width, width),
            **_norm(f"{block}.ln_2", width),
            **_linear(f"{block}.mlp.c_fc", width, sizes.hidden),
            **_linear(f"{block}.mlp.c_proj", sizes.hidden, width),
        }
    return layout


def _renamed_block(key: str, value: Tensor) -> dict[str, Tensor]:
    tower = "vision_model" if key.startswith("visual.") else "text_model"
    number, _, name = key.partition("transformer.resblocks.")[2].partition(".")
    place = f"{tower}.encoder.layers.{number}"
    if name.startswith("attn.in_proj_"):
        kind = name.removeprefix("attn.in_proj_")
        parts = zip("qkv", value.chunk(3), strict=True)
        return {f"{place}.self_attn.{letter}_proj.{kind}": part for letter, part in parts}
    layer, _, kind = name.rpartition(".")
    return {f"{place}.{_BLOCK[layer]}.{kind}": value}
