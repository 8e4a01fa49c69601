"""CLIP models of transformers, loaded from its own layout or from open_clip's keys."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import torch
from torch import Tensor

from flowbp.extras import require
from flowbp.place import Place, read_json
from flowbp.rewards.needs import Need, model_need, tokenizer_need
from flowbp.rewards.pretrained import load_model
from flowbp.rewards.towers import TOWERS, Towers
from flowbp.rewards.weight_files import check_layout, read_weights
from flowbp.validators import integer

if TYPE_CHECKING:
    from transformers import CLIPModel, PreTrainedTokenizerBase

VIT_L_14 = "openai/clip-vit-large-patch14"
"""OpenAI's model on the hub, which `CLIPScore` and `AestheticScore` read."""

# Of CLIPModel in a checkpoint of open_clip; those of a block follow its number.
_KEYS = {
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.final_layer_norm.weight": "ln_final.weight",
    "text_model.final_layer_norm.bias": "ln_final.bias",
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    # transformers' own spelling.
    "vision_model.pre_layrnorm.weight": "visual.ln_pre.weight",
    "vision_model.pre_layrnorm.bias": "visual.ln_pre.bias",
    "vision_model.post_layernorm.weight": "visual.ln_post.weight",
    "vision_model.post_layernorm.bias": "visual.ln_post.bias",
    "text_projection.weight": "text_projection",
    "visual_projection.weight": "visual.proj",
    "logit_scale": "logit_scale",
}
_LAYERS = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
_TRANSPOSED = ("text_projection", "visual.proj")


@attrs.frozen(kw_only=True)
class TransformerSizes:
    """One of the two transformers of a CLIP model.

    Args:
        width: of its embeddings.
        hidden: the width of its feed-forward layers.
        layers: how many.
        heads: of its attention; they must divide `width`.
    """

    width: int = attrs.field(validator=integer(1))
    hidden: int = attrs.field(validator=integer(1))
    layers: int = attrs.field(validator=integer(1))
    heads: int = attrs.field(validator=integer(1))

    def __attrs_post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"`heads` must divide `width` {self.width}, got {self.heads}")

    def options(self) -> dict[str, Any]:
        """The fields of transformers' configuration."""
        return {
            "hidden_size": self.width,
            "intermediate_size": self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-5,
        }


@attrs.frozen(kw_only=True)
class ClipArchitecture:
    """Sizes of a CLIP model with a vision transformer; activation and norms are as in open_clip.

    Args:
        vision: the transformer of the pictures.
        text: the transformer of the prompts.
        projection: the width of the common embedding.
        image: pixels along a side.
        patch: pixels along a side of one patch; they must divide `image`.
        vocabulary: how many tokens; the last two mark start and end.
        positions: tokens of the longest prompt.

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

    def model(self) -> CLIPModel:
        """A model of these sizes on the meta device, as drawing weights takes long."""
        transformers = require("transformers")
        config = transformers.CLIPConfig(
            text_config=self.text.options()
            | {
                "vocab_size": self.vocabulary,
                "max_position_embeddings": self.positions,
                "bos_token_id": self.vocabulary - 2,
                "eos_token_id": self.vocabulary - 1,
            },
            vision_config=self.vision.options()
            | {"image_size": self.image, "patch_size": self.patch},
            projection_dim=self.projection,
        )
        with torch.device("meta"):
            model: CLIPModel = transformers.CLIPModel(config)
        return model


VIT_H_14 = ClipArchitecture(
    vision=TransformerSizes(width=1280, hidden=5120, layers=32, heads=16),
    text=TransformerSizes(width=1024, hidden=4096, layers=24, heads=16),
    projection=1024,
)
"""The architecture of HPSv2 and PickScore."""


def load_clip_model(
    source: Place,
    *,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    towers: Towers = TOWERS,
) -> CLIPModel:
    """Load a CLIPModel from a folder or a hub id."""

    def load() -> CLIPModel:
        model: CLIPModel = load_model(source, "CLIPModel", check=_check_type, dtype=dtype)
        return model

    return towers.get(source, dtype=dtype, device=device, load=load)


def clip_needs(
    source: Place, *, tokenizer: Place | None = None, argument: str = "source"
) -> tuple[Need, ...]:
    """What loading a CLIPModel reads; `tokenizer` may be `source` too, or None if none is read."""
    model = model_need(source, check=_check_type, argument=argument)
    if tokenizer is None:
        return (model,)
    # What is wrong with one place is one problem.
    named = argument if str(tokenizer) == str(source) else "tokenizer"
    return model, tokenizer_need(tokenizer, argument=named)


def check_vocabulary(tokenizer: PreTrainedTokenizerBase, model: CLIPModel) -> None:
    """Refuse a tokenizer whose end mark is not where the model reads the embedding."""
    text = model.config.text_config
    # Old configurations say 2 and mean the highest number.
    mark = text.vocab_size - 1 if text.eos_token_id == 2 else text.eos_token_id
    if tokenizer.eos_token_id != mark or len(tokenizer) > text.vocab_size:
        raise ValueError(
            f"`tokenizer` has {len(tokenizer)} entries and the end mark {tokenizer.eos_token_id}, "
            f"where the model has {text.vocab_size} and reads at {mark}; name the tokenizer of "
            "this very model"
        )


def _check_type(folder: Path) -> None:
    kind = read_json(folder / "config.json", what="a folder in CLIPModel layout").get("model_type")
    if kind != "clip":
        raise ValueError(
            f"`source` must hold a CLIPModel, got model_type {kind!r} in {str(folder)!r}"
        )


def load_open_clip(path: Path, architecture: ClipArchitecture, *, dtype: torch.dtype) -> CLIPModel:
    """Load a checkpoint in open_clip's keys, on the CPU; they may all begin with ``model.``."""
    weights = dict(read_weights(path))
    if weights and all(key.startswith("model.") for key in weights):
        weights = {key.removeprefix("model."): value for key, value in weights.items()}
    # The causal mask, which some versions saved, is no weight.
    weights.pop("attn_mask", None)
    model = architecture.model()
    what = "a CLIP model of these sizes in open_clip's keys"
    check_layout(weights, open_clip_layout(model), path=path, what=what)
    fitting = {key: value.to(dtype) for key, value in renamed(weights, model).items()}
    model.load_state_dict(fitting, strict=True, assign=True)
    # Numbers of positions are no weights, so no file fills them.
    for part in (model.text_model.embeddings, model.vision_model.embeddings):
        count = part.position_embedding.num_embeddings
        part.register_buffer("position_ids", torch.arange(count)[None], persistent=False)
    return model


def open_clip_layout(model: CLIPModel) -> dict[str, tuple[int, ...]]:
    """Shapes by key of a model's checkpoint in open_clip's keys."""
    layout: dict[str, tuple[int, ...]] = {}
    for key, tensor in model.state_dict().items():
        (name, third), shape = _origin(key), tuple(tensor.shape)
        if third is not None:
            shape = (3 * shape[0], *shape[1:])
        layout[name] = shape[::-1] if name in _TRANSPOSED else shape
    return layout


def renamed(weights: Mapping[str, Tensor], model: CLIPModel) -> dict[str, Tensor]:
    """Weights in open_clip's keys under those of a CLIPModel."""
    found: dict[str, Tensor] = {}
    for key in model.state_dict():
        name, third = _origin(key)
        value = weights[name]
        if third is not None:
            value = value.chunk(3)[third]
        found[key] = value.T.contiguous() if name in _TRANSPOSED else value
    return found


def _origin(key: str) -> tuple[str, int | None]:
    """Open_clip's key of a CLIPModel's weight, and which third of it, where three are joined."""
    if key in _KEYS:
        return _KEYS[key], None
    tower, _, place = key.partition(".encoder.layers.")
    number, _, name = place.partition(".")
    layer, _, kind = name.rpartition(".")
    block = f"{'visual.' if tower == 'vision_model' else ''}transformer.resblocks.{number}"
    if layer in _LAYERS:
        return f"{block}.{_LAYERS[layer]}.{kind}", None
    inputs = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    return f"{block}.attn.in_proj_{kind}", inputs.index(layer)
