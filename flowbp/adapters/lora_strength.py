"""How strong an adapter is by its file and configuration, and taking that into B."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from flowbp.adapters.lora_files import PEFT_CONFIG, PEFT_PREFIX, RawLora
from flowbp.adapters.lora_layers import multiplied
from flowbp.extras import require

_FACTOR = re.compile(
    r"(?P<layer>.+)(\.lora_A|\.lora_down|[._]lora\.down|\.lora_linear_layer\.down"
    r"|(?P<up>\.lora_B|\.lora_up|[._]lora\.up|\.lora_linear_layer\.up))(\.default)?\.(weight|bias)"
)

_ALPHA = ".alpha"

_MERGED = "merge it into the model, and train from that folder"

_FOREIGN = {
    "dora_scale": ("DoRA", _MERGED),
    "lora_magnitude_vector": ("DoRA", _MERGED),
    "lokr_": ("LoKr", _MERGED),
    "hada_": ("LoHa", _MERGED),
    "lora_mid": ("a LoRA of convolutions", _MERGED),
    "query_norm.scale": ("a control LoRA", "its model takes a second picture, take another file"),
}
"""Marks in names of tensors of adapters that are no plain LoRA, with what they are and the cure."""

_HONOURED = {
    "peft_type",
    "r",
    "lora_alpha",
    "use_rslora",
    "rank_pattern",
    "alpha_pattern",
    "lora_bias",
    "target_modules",
    "exclude_modules",
    "layers_to_transform",
    "layers_pattern",
}

# Of how someone trained, or of where; none changes what a trained adapter of linear layers means.
_OF_TRAINING = {
    "task_type",
    "auto_mapping",
    "base_model_name_or_path",
    "revision",
    "inference_mode",
    "peft_version",
    "lora_dropout",
    "fan_in_fan_out",
    "megatron_core",
    "loftq_config",
    "eva_config",
    "corda_config",
    "lora_ga_config",
    "runtime_config",
    "velora_config",
    "ensure_weight_tying",
}

_INITIALISATIONS = (True, False, None, "gaussian", "orthogonal", "eva")
"""Those of peft that leave the base model as it is."""


def at_full_strength(raw: RawLora) -> dict[str, Tensor]:
    """An adapter's tensors with the scale of each layer taken into its B, so that it is 1.

    The product is taken in float64 and rounded once, to float32 or to the file's dtype where that
    is wider; it is exact where alpha over rank is a power of two. A tensor ``.alpha`` stays, equal
    to the rank.
    """
    _refuse_foreign(raw)
    ranks = {
        found["layer"]: int(tensor.shape[0])
        for name, tensor in raw.tensors.items()
        if (found := _FACTOR.fullmatch(name)) and not found["up"] and tensor.ndim > 1
    }
    stated = _configurations(raw)
    alphas = {
        name.removesuffix(_ALPHA): _alpha_of(tensor, name, raw)
        for name, tensor in raw.tensors.items()
        if name.endswith(_ALPHA)
    }
    lone = sorted(layer for layer in alphas if layer not in ranks)
    if lone:
        raise ValueError(
            f"{raw.place} holds {lone[0] + _ALPHA!r} without the factors of that layer; it is "
            "damaged or no plain LoRA"
        )
    scales = {layer: _agreed(layer, rank, alphas, stated, raw) for layer, rank in ranks.items()}
    scaled = dict(raw.tensors)
    for name, tensor in raw.tensors.items():
        found = _FACTOR.fullmatch(name)
        if found and found["up"]:
            scaled[name] = multiplied(tensor, scales.get(found["layer"], 1.0))
        elif name.endswith(_ALPHA):
            scaled[name] = torch.tensor(float(ranks[name.removesuffix(_ALPHA)]))
    return scaled


def _agreed(
    layer: str,
    rank: int,
    alphas: Mapping[str, float],
    stated: Mapping[str, Mapping[str, Any]],
    raw: RawLora,
) -> float:
    """The scale of a layer by all that states one."""
    name = layer.removeprefix(PEFT_PREFIX).removeprefix("transformer.")
    found = {where: _scale(config, where, name, rank) for where, config in stated.items()}
    if layer in alphas:
        found[f"{layer}{_ALPHA}"] = alphas[layer] / rank
    if not all(math.isclose(one, other) for one in found.values() for other in found.values()):
        scales = ", ".join(f"{scale:g} by {where}" for where, scale in found.items())
        raise ValueError(
            f"{raw.place} is of two strengths, its {layer!r} is scaled with {scales}; remove what "
            "is wrong"
        )
    return next(iter(found.values()), 1.0)


def _scale(config: Mapping[str, Any], where: str, layer: str, rank: int) -> float:
    """The factor of a layer's B A by a configuration of peft, whose rank its tensors must have."""
    stated = _by_pattern(config["rank_pattern"], layer, config["r"])
    if stated != rank:
        raise ValueError(
            f"{where} says rank {stated} of {layer!r}, whose tensors have rank {rank}; "
            "they are not of one adapter, copy or download both again"
        )
    alpha: float = _by_pattern(config["alpha_pattern"], layer, config["lora_alpha"])
    return alpha / (math.sqrt(rank) if config["use_rslora"] else rank)


def _configurations(raw: RawLora) -> dict[str, Mapping[str, Any]]:
    """The adapter's configurations of peft, checked, by where they stand."""
    found = {}
    if raw.config is not None:
        found[str(raw.place.with_name(PEFT_CONFIG))] = raw.config
    of_transformer = {
        name.removeprefix("transformer."): value
        for name, value in (raw.metadata or {}).items()
        if not name.startswith("text_encoder")
    }
    if of_transformer:
        found[f"the metadata of {raw.place}"] = of_transformer
    return {where: _checked(config, where) for where, config in found.items()}


def _checked(found: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """A configuration with peft's defaults, refused where it cannot be honoured."""
    defaults = require("peft", extra="lora").LoraConfig().to_dict()
    _refuse_unhonoured(found, defaults, where)
    config: dict[str, Any] = defaults | {
        name: value for name, value in found.items() if value is not None
    }
    sound = {
        "r": isinstance(config["r"], int) and _is_positive(config["r"]),
        "lora_alpha": _is_positive(config["lora_alpha"]),
        "rank_pattern": _is_pattern(config["rank_pattern"]),
        "alpha_pattern": _is_pattern(config["alpha_pattern"]),
        "use_rslora": isinstance(config["use_rslora"], bool),
    }
    unsound = [key for key, holds in sound.items() if not holds]
    if unsound:
        raise ValueError(
            f"{where} has {unsound[0]}={config[unsound[0]]!r}, which peft does not write; copy or "
            "download it again"
        )
    return config


def _is_positive(number: Any) -> bool:
    kinds = isinstance(number, int | float) and not isinstance(number, bool)
    return kinds and 0 < number < math.inf


def _is_pattern(numbers: Any) -> bool:
    """Whether it maps regular expressions to numbers."""
    if not isinstance(numbers, dict):
        return False
    try:
        return all(re.compile(key) and _is_positive(each) for key, each in numbers.items())
    except re.error:
        return False


def _refuse_unhonoured(found: Mapping[str, Any], defaults: Mapping[str, Any], where: str) -> None:
    kind = found.get("peft_type", "LORA")
    if str(kind) != "LORA":
        raise ValueError(
            f"{where} is of peft_type={kind!r}, and a LoRA is needed; merge it into the model, and "
            "train from that folder"
        )
    start = found.get("init_lora_weights")
    if start not in _INITIALISATIONS:
        raise ValueError(
            f"{where} has init_lora_weights={start!r}, which changes the base model too; convert "
            "it with peft's save_pretrained(path_initial_model_for_weight_conversion=...)"
        )
    unknown = sorted(found.keys() - defaults.keys())
    if unknown:
        warnings.warn(
            f"{where} has {', '.join(unknown)}, which this version of peft does not know and which "
            "is ignored; if the adapter needs it, run: pip install -U peft",
            stacklevel=2,
        )
    for key in sorted(found.keys() & defaults.keys() - _HONOURED - _OF_TRAINING):
        value = found[key]
        if key != "init_lora_weights" and value != defaults[key] and value not in (None, False):
            raise ValueError(
                f"{where} has {key}={value!r}, which cannot be honoured here; merge the adapter "
                "into the model with peft, and train from that folder"
            )


def _refuse_foreign(raw: RawLora) -> None:
    for name in sorted(raw.tensors):
        for mark, (kind, cure) in _FOREIGN.items():
            if mark in name:
                raise ValueError(
                    f"{raw.place} holds {name!r}, which is of {kind} and no plain LoRA; {cure}"
                )


def _by_pattern(pattern: Mapping[str, Any], layer: str, default: Any) -> Any:
    # As peft does in `get_pattern_key`, which is no part of its interface.
    found = (key for key in pattern if re.match(rf"(.*\.)?({key})$", layer))
    return pattern.get(next(found, ""), default)


def _alpha_of(tensor: Tensor, name: str, raw: RawLora) -> float:
    alpha = float(tensor) if tensor.numel() == 1 else math.nan
    if not 0 < alpha < math.inf:
        raise ValueError(
            f"{raw.place} holds {name!r} that is no single number above 0; it is damaged, copy or "
            "download it again"
        )
    return alpha
