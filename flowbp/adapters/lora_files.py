"""An adapter's tensors, from any form that can be read to the layers of a transformer."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from flowbp.adapters.extras import require
from flowbp.adapters.lora_source import PEFT_PREFIX, RawLora, read_raw
from flowbp.adapters.lora_strength import at_full_strength

_FACTOR = re.compile(r"(?P<layer>.+)\.lora_(?P<side>[AB])\.(weight|bias)")
_OLDER_NAMES = {
    ".lora_A.default.": ".lora_A.",
    ".lora_B.default.": ".lora_B.",
    ".lora_down.": ".lora_A.",
    ".lora_up.": ".lora_B.",
}


def read_lora(start: str, pipeline: Any, transformer: nn.Module) -> dict[str, Tensor]:
    """Read an adapter in any form that peft or a diffusers pipeline writes, for a transformer.

    Its scale, alpha over rank or what else its configuration says, is taken into B.

    Args:
        start: as in `flowbp.adapters.lora_source.find_lora`.
        pipeline: the class of the model's pipeline.
        transformer: where every tensor must find its place.

    Returns:
        ``<layer>.lora_A.weight`` and so on, without the name of the transformer; the layer adds
        B A, with no further factor.

    Raises:
        FileNotFoundError: a hub id that cannot be read.
        ValueError: a form that is not understood, what cannot be honoured, a tensor that has no
            place in the transformer, or none at all.

    Example:
        See `flowbp.adapters.Lora`.
    """
    raw = read_raw(start)
    try:
        scaled = at_full_strength(raw)
    except ValueError as error:
        raise ValueError(f"`start` {start!r} cannot be taken up: {error}") from error
    linears = {name for name, each in transformer.named_modules() if isinstance(each, nn.Linear)}
    tensors = _by_own_names(scaled, linears, pipeline.transformer_name)
    if tensors is None:
        tensors = _converted(scaled, pipeline, start)
    _check_places(tensors, transformer, start)
    _check_complete(raw, tensors, linears, start)
    return tensors


def configuration_of(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """What peft's configuration says of an adapter whose scale is 1.

    Layers are named in full, for the shortest ends that peft finds for one model may mean more in
    another.

    Args:
        tensors: as `read_lora` gives them.

    Returns:
        Ranks, alphas equal to them, and the layers.

    Example:
        >>> pair = {"a.lora_A.weight": torch.zeros(2, 5), "a.lora_B.weight": torch.zeros(5, 2)}
        >>> found = configuration_of(pair)
        >>> found["r"], found["lora_alpha"], found["target_modules"]
        (2, 2, ['a'])
    """
    ranks = {
        name.split(".lora_")[0]: int(tensor.shape[0])
        for name, tensor in sorted(tensors.items())
        if name.endswith(".lora_A.weight")
    }
    rank = Counter(ranks.values()).most_common(1)[0][0]
    # Anchored, as ends of names may be those of several layers.
    others = {f"^{layer}": each for layer, each in ranks.items() if each != rank}
    return {
        "r": rank,
        "lora_alpha": rank,
        "rank_pattern": others,
        "alpha_pattern": others,
        "use_rslora": False,
        "lora_bias": any(name.endswith(".bias") for name in tensors),
        "target_modules": sorted(ranks),
    }


@torch.no_grad()
def fill(layers: Mapping[str, Any], adapter: str, tensors: Mapping[str, Tensor]) -> None:
    """Copy an adapter's tensors into its layers, unrounded by the model's own dtype.

    Args:
        layers: by name.
        adapter: its name.
        tensors: as `read_lora` gives them.

    Example:
        See `flowbp.adapters.Lora`.
    """
    for name, tensor in tensors.items():
        layer, _, rest = name.rpartition(".lora_")
        side, kind = rest.split(".")
        getattr(getattr(layers[layer], f"lora_{side}")[adapter], kind).copy_(tensor)


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
