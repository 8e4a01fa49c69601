"""HPSv3's network on transformers' Qwen2-VL, and how its published file names the weights."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from flowbp.extras import require
from flowbp.place import Place
from flowbp.rewards.towers import TowerSizes
from flowbp.rewards.weight_files import (
    Float32Head,
    assign,
    check_layout,
    check_whole,
    find_shards,
    read_shapes,
    read_weights,
    unfilled,
)

if TYPE_CHECKING:
    from transformers import Qwen2VLModel

HUB_ID = "MizzenAI/HPSv3"
"""Where HPSv3 is published."""

FILE = "HPSv3.safetensors"
"""Its file there: bfloat16 weights of Qwen2-VL-7B, a float32 head."""


QWEN2_VL_7B = TowerSizes(
    vision=dict(
        depth=32,
        embed_dim=1280,
        hidden_size=3584,
        num_heads=16,
        mlp_ratio=4,
        patch_size=14,
        spatial_merge_size=2,
        temporal_patch_size=2,
    ),
    text=dict(
        # Qwen2-VL's 151657 tokens and the reward token.
        vocab_size=151658,
        hidden_size=3584,
        intermediate_size=18944,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
        max_position_embeddings=32768,
        rms_norm_eps=1e-6,
        rope_theta=1_000_000.0,
        rope_scaling=dict(type="mrope", mrope_section=[16, 24, 24]),
        attention_dropout=0.0,
    ),
)
"""HPSv3's sizes: fields of a Qwen2VLVisionConfig and of a Qwen2VLTextConfig."""


class HPSv3Model(nn.Module):
    """Qwen2-VL without its word predictions, and a head on the state of one token."""

    def __init__(self, body: Qwen2VLModel) -> None:
        super().__init__()
        self.body = body
        # The file counts the dropout that the head was trained with as a layer of its own.
        self.rm_head = Float32Head(
            nn.Linear(body.config.text_config.hidden_size, 1024),
            nn.ReLU(),
            nn.Identity(),
            nn.Linear(1024, 16),
            nn.ReLU(),
            nn.Linear(16, 2),
        )

    def forward(
        self, patches: Tensor, grid: Tensor, *, before: Tensor, after: Tensor, last: Tensor
    ) -> Tensor:
        """Expected preferences (B,) of B pictures.

        Args:
            patches: (P, D) of all pictures, in the order of `flowbp.rewards.pixels.patches`.
            grid: (B, 3) frames, rows and columns of patches of each picture.
            before: (L1,) tokens before a picture.
            after: (B, L2) tokens after it, padded at the end with any.
            last: (B,) which of them the head reads.
        """
        seen = self.body.visual(patches, grid_thw=grid)
        # transformers 4 returns the tokens themselves, transformers 5 an output object.
        seen = seen if isinstance(seen, Tensor) else seen.pooler_output
        words, batch = self.body.language_model.embed_tokens, len(after)
        seen = seen.unflatten(0, (batch, -1)).to(words.weight.dtype)
        joined = torch.cat([words(before).expand(batch, -1, -1), seen, words(after)], 1)
        # Without positions of its own the model counts the tokens one by one, the picture's too:
        # so was this one trained, unlike Qwen2-VL itself. What pads the end is seen by nothing,
        # because attention is causal, and needs no mask.
        states = self.body.language_model(inputs_embeds=joined, use_cache=False).last_hidden_state
        rows = torch.arange(batch, device=last.device)
        read = states[rows, len(before) + seen.shape[1] + last]
        # The second output, the spread of the preference, is not used.
        with torch.autocast(patches.device.type, enabled=False):
            outputs: Tensor = self.rm_head(read.to(self.rm_head[0].weight.dtype))
        return outputs[:, 0]

    @contextmanager
    def layers_recomputed(self) -> Iterator[None]:
        """Inside, only the inputs of each layer of both towers are kept for the backward pass."""
        layers = [*self.body.visual.blocks, *self.body.language_model.layers]
        # transformers' own switch works in training mode alone, makes the embeddings of words ask
        # for a gradient, and would change a model that others share.
        for layer in layers:
            again = partial(
                checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False
            )
            layer.__dict__["forward"] = again
        try:
            yield
        finally:
            for layer in layers:
                del layer.__dict__["forward"]


def build_model(sizes: TowerSizes = QWEN2_VL_7B) -> HPSv3Model:
    """HPSv3's network with new weights, in torch's default dtype."""
    transformers = require("transformers")
    # Copies, because transformers writes into what it is given.
    config = transformers.Qwen2VLConfig(
        text_config=deepcopy(dict(sizes.text)), vision_config=deepcopy(dict(sizes.vision))
    )
    return HPSv3Model(transformers.Qwen2VLModel(config))


def rename(key: str) -> str | None:
    """The network's name of a key of the published file; None for one it does not use.

    Keys may be in the layout of transformers from 4.52 on, or of those before.
    """
    if key.startswith("lm_head."):
        return None
    key = re.sub(r"^visual\.", "model.visual.", key)
    key = re.sub(r"^model\.(?!language_model\.|visual\.)", "model.language_model.", key)
    return re.sub(r"^model\.", "body.", key)


def check_files(source: Place, *, sizes: TowerSizes = QWEN2_VL_7B) -> None:
    """Refuse files that `load_model` would refuse; only their headers are read."""
    paths = find_shards(source, name=FILE, fetch=False)
    for path in paths:
        check_whole(path)
    if paths:
        with torch.device("meta"):
            own = build_model(sizes).state_dict()
        layout = {key: tuple(tensor.shape) for key, tensor in own.items()}
        check_layout(_renamed(paths, read_shapes), layout, path=_place(paths), what="HPSv3")


def load_model(source: Place, *, dtype: torch.dtype, sizes: TowerSizes = QWEN2_VL_7B) -> HPSv3Model:
    """HPSv3 with the weights of a file, or of several, in the published keys, on the CPU.

    Weights of `dtype` stay on the disk until they are used; the head keeps float32, or takes
    float64 where that is `dtype`.
    """
    paths = find_shards(source, name=FILE)
    weights = _renamed(paths, read_weights)
    with unfilled(dtype):
        model = build_model(sizes)
    model.rm_head.to(dtype)
    assign(model, weights, path=_place(paths), what="HPSv3")
    return model


def _renamed(
    paths: Sequence[Path], read: Callable[[Path], Mapping[str, Tensor]]
) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for path in paths:
        each = read(path)
        found |= {new: each[key] for key in each if (new := rename(key)) is not None}
    return found


def _place(paths: Sequence[Path]) -> Path:
    return paths[0] if len(paths) == 1 else paths[0].parent
