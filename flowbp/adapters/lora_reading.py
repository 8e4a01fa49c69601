"""An adapter's tensors, from any form that can be read to the layers of a transformer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any

from torch import Tensor, nn

from flowbp.adapters.lora_files import PEFT_PREFIX, RawLora, read_raw
from flowbp.adapters.lora_layouts import OWN_FACTOR, converted
from flowbp.adapters.lora_strength import at_full_strength
from flowbp.extras import require

_OLDER_NAMES = {
    ".lora_A.default.": ".lora_A.",
    ".lora_B.default.": ".lora_B.",
    ".lora_down.": ".lora_A.",
    ".lora_up.": ".lora_B.",
    ".lora.down.": ".lora_A.",
    ".lora.up.": ".lora_B.",
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
    tensors = _by_own_names(scaled, linears, pipeline.transformer_name, start)
    if tensors is None:
        tensors = converted(scaled, pipeline, linears, start)
    _check_places(tensors, transformer, start)
    _check_complete(raw, tensors, linears, start)
    return tensors


def _by_own_names(
    tensors: Mapping[str, Tensor], linears: Iterable[str], prefix: str, start: str
) -> dict[str, Tensor] | None:
    """Tensors by the transformer's own names; None where one is of another's, to be converted."""
    found: dict[str, Tensor] = {}
    origins: dict[str, str] = {}
    for name, tensor in tensors.items():
        own = name.removeprefix(PEFT_PREFIX).removeprefix(f"{prefix}.")
        for older, newer in _OLDER_NAMES.items():
            own = own.replace(older, newer)
        match = OWN_FACTOR.fullmatch(own)
        layer = match["layer"] if match else own.removesuffix(".alpha")
        if layer not in linears:
            return None
        if match:
            if own in found:
                raise ValueError(
                    f"`start` {start!r} holds {own!r} twice, as {origins[own]!r} and {name!r}, and "
                    "one of them would be lost; leave one adapter in the file"
                )
            found[own], origins[own] = tensor, name
    return found


def _check_places(tensors: Mapping[str, Tensor], transformer: nn.Module, start: str) -> None:
    if not tensors:
        raise ValueError(f"`start` {start!r} must hold a LoRA, got a file without tensors")
    for name, tensor in sorted(tensors.items()):
        layer, _, rest = name.rpartition(".lora_")
        module: Any = transformer.get_submodule(layer)
        is_down = rest.startswith("A")
        other = f"{layer}.lora_{'B' if is_down else 'A'}.weight"
        if other not in tensors:
            raise ValueError(f"`start` {start!r} holds {name!r} without {other!r}; it is damaged")
        outer = module.in_features if is_down else module.out_features
        if tensor.ndim == 0 or tensor.shape[-1 if is_down else 0] != outer:
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
