"""ImageReward's network on transformers' BLIP, and how its published file names the weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import torch
from torch import Tensor, nn

from flowbp.extras import require
from flowbp.rewards.weight_files import (
    Float32Head,
    PublishedFile,
    assign,
    read_weights,
    unfilled,
)

if TYPE_CHECKING:
    from transformers import BlipTextModel, BlipVisionModel

IMAGE_REWARD = PublishedFile(
    repository="THUDM/ImageReward",
    name="ImageReward.pt",
    size=1_786_880_927,
    sha256="d71dc8d4912bc633c06ab8ef1ef6a81e8199d4369f14b47b29baf1d19de561f6",
)
"""The published checkpoint: float32 weights in the keys of BLIP's own code."""


@attrs.frozen(kw_only=True)
class BlipSizes:
    """Sizes of BLIP's two towers: fields of a BlipVisionConfig and of a BlipTextConfig."""

    vision: Mapping[str, Any]
    text: Mapping[str, Any]


BLIP_LARGE = BlipSizes(
    vision=dict(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=224,
        patch_size=16,
        hidden_act="gelu",
        layer_norm_eps=1e-6,
        attention_dropout=0.0,
    ),
    text=dict(
        vocab_size=30524,
        hidden_size=768,
        encoder_hidden_size=1024,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        max_position_embeddings=512,
        hidden_act="gelu",
        layer_norm_eps=1e-12,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        pad_token_id=0,
        # Only transformers' decoder looks at the picture; it is called as an encoder.
        is_decoder=True,
    ),
)
"""ImageReward's."""

_UNUSED = re.compile(r"blip\.(vision_proj|text_proj)\.|.*\.position_ids$")
_RENAMED = (
    (r"^mlp\.layers\.", "head."),
    (r"^blip\.text_encoder\.", "text."),
    (r"^blip\.visual_encoder\.cls_token$", "vision.embeddings.class_embedding"),
    (r"^blip\.visual_encoder\.pos_embed$", "vision.embeddings.position_embedding"),
    (r"^blip\.visual_encoder\.patch_embed\.proj\.", "vision.embeddings.patch_embedding."),
    (r"^blip\.visual_encoder\.norm\.", "vision.post_layernorm."),
    (
        r"^blip\.visual_encoder\.blocks\.(\d+)\.norm([12])\.",
        r"vision.encoder.layers.\1.layer_norm\2.",
    ),
    (
        r"^blip\.visual_encoder\.blocks\.(\d+)\.attn\.proj\.",
        r"vision.encoder.layers.\1.self_attn.projection.",
    ),
    (r"^blip\.visual_encoder\.blocks\.(\d+)\.attn\.", r"vision.encoder.layers.\1.self_attn."),
    (r"^blip\.visual_encoder\.blocks\.", "vision.encoder.layers."),
)


class ImageRewardModel(nn.Module):
    """BLIP's two towers, the text looking at the picture, and a linear head on the first token.

    Source: Xu et al., arXiv 2304.05977, section 3.1.
    """

    def __init__(self, vision: BlipVisionModel, text: BlipTextModel) -> None:
        super().__init__()
        self.vision = vision
        self.text = text
        # The file counts the dropouts that the head was trained with as layers of their own.
        self.head = Float32Head(
            nn.Linear(text.config.hidden_size, 1024),
            nn.Identity(),
            nn.Linear(1024, 128),
            nn.Identity(),
            nn.Linear(128, 64),
            nn.Identity(),
            nn.Linear(64, 16),
            nn.Linear(16, 1),
        )

    def forward(self, pixels: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """Scores (B,) of normalised pictures (B, 3, S, S) under tokens and mask (B, L).

        The head runs outside of any autocast, in its own dtype.
        """
        patches = self.vision(pixel_values=pixels).last_hidden_state
        read = self.text(
            input_ids=ids, attention_mask=mask, encoder_hidden_states=patches, is_decoder=False
        ).last_hidden_state[:, 0]
        with torch.autocast(pixels.device.type, enabled=False):
            score: Tensor = self.head(read.to(self.head[0].weight.dtype)).squeeze(-1)
        return score


def build_model(sizes: BlipSizes = BLIP_LARGE) -> ImageRewardModel:
    """ImageReward's network with new weights, in torch's default dtype."""
    transformers = require("transformers")
    return ImageRewardModel(
        transformers.BlipVisionModel(transformers.BlipVisionConfig(**sizes.vision)),
        transformers.BlipTextModel(
            transformers.BlipTextConfig(**sizes.text), add_pooling_layer=False
        ),
    )


def rename(key: str) -> str | None:
    """The network's name of a key of the published file; None for one it does not use."""
    if _UNUSED.match(key):
        return None
    for pattern, new in _RENAMED:
        key, count = re.subn(pattern, new, key)
        if count:
            return key
    return key


def load_model(path: Path, sizes: BlipSizes = BLIP_LARGE) -> ImageRewardModel:
    """ImageReward with the weights of a file in the published keys, in float32 on the CPU.

    Raises:
        ModuleNotFoundError: transformers is not installed.
        ValueError: a file that was cut off, or is another one; with the first key that differs.
    """
    weights = read_weights(path)
    renamed = {new: tensor for key, tensor in weights.items() if (new := rename(key)) is not None}
    with unfilled(torch.float32):
        model = build_model(sizes)
    assign(model, renamed, path=path, what="ImageReward")
    return model
