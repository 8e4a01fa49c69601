"""CLIP checkpoints in the keys of open_clip, as transformers' CLIPModel."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from flowbp.adapters.extras import require
from flowbp.rewards.clip_architecture import ClipArchitecture
from flowbp.rewards.weight_files import check_layout, read_weights

if TYPE_CHECKING:
    from transformers import CLIPModel

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


def load_open_clip(path: Path, architecture: ClipArchitecture, *, dtype: torch.dtype) -> CLIPModel:
    """Load a checkpoint in open_clip's keys.

    Args:
        path: a file of ``torch.save`` or safetensors; its keys may all begin with ``model.``.
        architecture: what it must be.
        dtype: of the weights; those of the file are cast.

    Returns:
        The model, on the CPU.

    Raises:
        ModuleNotFoundError: transformers is not installed.
        ValueError: a damaged file, or another model in it.

    Example:
        >>> from tempfile import mkdtemp
        >>> from flowbp.rewards import TransformerSizes
        >>> sizes = TransformerSizes(width=4, hidden=4, layers=1, heads=1)
        >>> tiny = ClipArchitecture(vision=sizes, text=sizes, projection=2, vocabulary=3)
        >>> path = Path(mkdtemp()) / "tiny.pt"
        >>> torch.save({key: torch.zeros(s) for key, s in tiny.layout().items()}, path)
        >>> load_open_clip(path, tiny, dtype=torch.float32).visual_projection.weight.shape
        torch.Size([2, 4])
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
    """Weights in open_clip's keys under the keys of transformers' CLIPModel.

    Args:
        weights: all those of `ClipArchitecture.layout`.

    Returns:
        The same tensors: projections transposed, joint attention inputs in three parts.

    Example:
        >>> list(renamed({"visual.proj": torch.ones(2, 3)}))
        ['visual_projection.weight']
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
