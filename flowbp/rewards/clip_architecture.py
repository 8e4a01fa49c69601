"""Sizes of CLIP models with a vision transformer, and what open_clip calls their weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from flowbp.adapters.extras import require
from flowbp.core._validators import integer

if TYPE_CHECKING:
    from transformers import CLIPConfig

Layout = dict[str, tuple[int, ...]]


@attrs.frozen(kw_only=True)
class TransformerSizes:
    """One of the two transformers of a CLIP model.

    Args:
        width: of its residual stream.
        hidden: width inside its feed-forward layers.
        layers: blocks.
        heads: of its attention.

    Raises:
        ValueError: one of them is below 1, or `heads` does not divide `width`.

    Example:
        >>> TransformerSizes(width=1280, hidden=5120, layers=32, heads=16).layers
        32
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

    Raises:
        ValueError: a size below 1, or `patch` does not divide `image`.

    Example:
        >>> VIT_H_14.layout()["visual.conv1.weight"]
        (1280, 3, 14, 14)

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
