"""An adapter's tensors, from any form that can be read to the layers of a transformer."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any

from torch import Tensor, nn

from flowbp.adapters.lora_files import PEFT_PREFIX, RawLora, read_raw
from flowbp.adapters.lora_strength import at_full_strength
from flowbp.extras import require

_FACTOR = re.compile(r"(?P<layer>.+)\.lora_(?P<side>[AB])\.(weight|bias)")

_OLDER_NAMES = {
    ".lora_A.default.": ".lora_A.",
    ".lora_B.default.": ".lora_B.",
    ".lora_down.": ".lora_A.",
    ".lora_up.": ".lora_B.",
}


def read_lora(start: str, pipeline: Any, transformer: nn.Module) -> dict[str, Tensor]:
    """Read an adapter in any form that peft or a diffusers pipeline writes, for a transformer.

    The tensors are named ``<layer>.lora_A.weight`` and so on, without the name of the transformer;
    the layer adds B A, with no further factor. A hub id is read from the cache or downloaded.
    """
    raw = read_raw(start)
    try:
        scaled = at_full_strength(raw)
    except ValueError as error:
        raise ValueError(f"`start` {start!r} cannot be loaded: {error}") from error
    linears = {name for name, each in transformer.named_modules() if isinstance(each, nn.Linear)}
    tensors = _by_own_names(scaled, linears, pipeline.transformer_name)
    if tensors is None:
        tensors = _converted(scaled, pipeline, start)
    _check_places(tensors, transformer, start)
    _check_complete(raw, tensors, linears, start)
    return tensors


def _by_own_names(
    tensors: Mapping[str, Tensor], linears: Iterable[str], prefix: str
) -> dict[str, Tensor] | None:
    """Tensors by the transformer's own names; None where one is of another's, to be converted."""
    found = {}
    for name, tensor in tensors.items():
        own = name.removeprefix(PEFT_PREFIX).removeprefix(f"{prefix}.")
        for older, newer in _OLDER_NAMES.items():
            own = own.replace(older, newer)
        match = _FACTOR.fullmatch(own)
        layer = match["layer"] if match else own.removesuffix(".alpha")
        if layer not in linears:
            return None
        if match:
            found[own] = tensor
    return found


def _converted(tensors: Mapping[str, Tensor], pipeline: Any, start: str) -> dict[str, Tensor]:
    given = dict(tensors)
    # Only the forms of kohya are read with an alpha, which is the rank by now.
    if not any(".lora_down." in name for name in given):
        given = {name: each for name, each in given.items() if not name.endswith(".alpha")}
    try:
        read = pipeline.lora_state_dict(given, use_safetensors=True)
    # Converters of other forms raise whatever they like.
    except Exception as error:
        raise ValueError(
            f"`start` {start!r} could not be read as a LoRA of {pipeline.__name__}: {error}; "
            "convert it to the form of diffusers"
        ) from error
    found = _of_transformer(read, pipeline.transformer_name, start)
    if not any(".lora_A." in name for name in found):
        found = require("diffusers.utils").convert_unet_state_dict_to_peft(found)
    return found


def _of_transformer(tensors: Mapping[str, Tensor], prefix: str, start: str) -> dict[str, Tensor]:
    foreign = sorted(name for name in tensors if not name.startswith(f"{prefix}."))
    if foreign:
        what = "is of a text encoder, which is not trained here"
        if not foreign[0].startswith("text_encoder"):
            what = f"has no place in the {prefix}"
        raise ValueError(
            f"`start` {start!r} must be a LoRA of the {prefix} alone, but {foreign[0]!r} {what}; "
            f"{len(foreign)} of its {len(tensors)} tensors do not belong; take another file or "
            "leave them out of it"
        )
    return {name.removeprefix(f"{prefix}."): tensor for name, tensor in tensors.items()}


def _check_places(tensors: Mapping[str, Tensor], transformer: nn.Module, start: str) -> None:
    if not tensors:
        raise ValueError(f"`start` {start!r} must hold a LoRA, got a file without tensors")
    modules = dict(transformer.named_modules())
    for name, tensor in sorted(tensors.items()):
        match = _FACTOR.fullmatch(name)
        module = modules.get(match["layer"]) if match else None
        if match is None or not isinstance(module, nn.Linear):
            raise ValueError(
                f"`start` {start!r} holds {name!r}, which has no place in the "
                f"{type(transformer).__name__}; it is of another model or no plain LoRA"
            )
        other = f"{match['layer']}.lora_{'B' if match['side'] == 'A' else 'A'}.weight"
        if other not in tensors:
            raise ValueError(f"`start` {start!r} holds {name!r} without {other!r}; it is damaged")
        outer = module.in_features if match["side"] == "A" else module.out_features
        if tensor.ndim == 0 or tensor.shape[-1 if match["side"] == "A" else 0] != outer:
            raise ValueError(
                f"`start` {start!r} holds {name!r} of shape {tuple(tensor.shape)}, where the "
                f"model has {outer} features; it is of a model of another size"
            )
        if name.endswith("A.weight") and tensor.shape[0] != tensors[other].shape[-1]:
            raise ValueError(
                f"`start` {start!r} holds {name!r} of shape {tuple(tensor.shape)} and {other!r} of "
                f"shape {tuple(tensors[other].shape)}, whose ranks differ; it is damaged"
            )


def _check_complete(
    raw: RawLora, tensors: Mapping[str, Tensor], linears: Iterable[str], start: str
) -> None:
    """Refuse an adapter of peft whose tensors are fewer than its configuration says."""
    if raw.config is None or not raw.config.get("target_modules"):
        return
    wanted = ("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern")
    config = SimpleNamespace(**{name: raw.config.get(name) for name in wanted})
    exists = require("peft.tuners.tuners_utils", extra="lora").check_target_module_exists
    lost = [
        name
        for name in sorted(linears)
        if exists(config, name) and f"{name}.lora_A.weight" not in tensors
    ]
    if lost:
        raise ValueError(
            f"`start` {start!r} has no tensors for {len(lost)} layers that its target_modules "
            f"name, the first being {lost[0]!r}; it is of a smaller model, or damaged"
        )
