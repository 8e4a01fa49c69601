"""Adapters as files, in the form of diffusers' own pipelines."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from flowbp.adapters.extras import require
from flowbp.adapters.hub import why_unread
from flowbp.adapters.source import is_hub_id
from flowbp.adapters.weights import check_weight_file

WEIGHTS = "pytorch_lora_weights.safetensors"
"""The file that a pipeline's ``load_lora_weights`` looks for in a folder."""

_FACTOR = re.compile(r"(?P<layer>.+)\.lora_(?P<side>[AB])\.(weight|bias)")
COMPUTED = (
    "r",
    "lora_alpha",
    "rank_pattern",
    "alpha_pattern",
    "use_rslora",
    "lora_bias",
)
"""What the numbers depend on of peft's configuration, besides the layers. The rest is how someone
trained: other versions of peft refuse keys that they do not know, and diffusers leaves a dropout
active when one samples."""


@attrs.frozen(eq=False)
class LoraFile:
    """An adapter that was read.

    Args:
        tensors: by name, without the name of the transformer; ``<layer>.lora_A.weight`` and so on.
        alphas: by name, as many as the file has as tensors; None where the pipeline knows of none.
        metadata: of peft's configuration what the numbers depend on, where the file has it.
    """

    tensors: Mapping[str, Tensor]
    alphas: Mapping[str, float] | None
    metadata: Mapping[str, Any] | None


def find_lora(start: str) -> Path | None:
    """The file that `start` means, or None where it is a hub id; nothing is read but its header.

    Args:
        start: a safetensors file, a folder with one, or a hub id of the form ``owner/name``.

    Returns:
        The file (``~`` expanded), or None for a hub id.

    Raises:
        ValueError: there is no such file or folder, the folder holds none or several that it could
            be, or the file is damaged or of another format.

    Example:
        >>> find_lora("someone/some-lora") is None
        True
    """
    path = Path(start).expanduser()
    if path.is_dir():
        path = _only_file(path)
    elif not path.is_file():
        if is_hub_id(start) and path.suffix != ".safetensors":
            return None
        raise ValueError(
            f"`start` must be a folder or file with a LoRA, or a hub id like owner/name, got "
            f"{start!r}; there is no {path}"
        )
    if path.suffix != ".safetensors":
        raise ValueError(
            f"`start` must be a .safetensors file, got {str(path)!r}; nothing is unpickled here, "
            "convert it"
        )
    check_weight_file(path)
    return path


def read_lora(start: str, pipeline: Any, transformer: nn.Module) -> LoraFile:
    """Read an adapter in any form that a diffusers pipeline understands, for a transformer.

    Args:
        start: as in `find_lora`.
        pipeline: the class of the model's pipeline.
        transformer: where every tensor must find its place.

    Returns:
        What was read, in peft's form.

    Raises:
        FileNotFoundError: a hub id that cannot be read.
        ValueError: a form that the pipeline does not understand, a tensor that has no place in the
            transformer, or none at all.

    Example:
        See `flowbp.adapters.Lora`.
    """
    found = _read(start, pipeline)
    tensors = _of_transformer(found.tensors, pipeline.transformer_name, start)
    convert = require("diffusers.utils").convert_unet_state_dict_to_peft
    if not any(".lora_A." in name for name in tensors):
        tensors = convert(tensors)
    _check_places(tensors, transformer, start)
    metadata = _metadata(found.metadata or {}, pipeline.transformer_name, tensors)
    return LoraFile(tensors, found.alphas, metadata)


def targets_of(tensors: Iterable[str]) -> dict[str, list[str]]:
    """What peft's configuration says of the layers that an adapter has.

    In full, for the shortest ends that peft finds for one model may mean more in another.

    Args:
        tensors: their names.

    Returns:
        ``target_modules`` alone.

    Example:
        >>> targets_of(["a.lora_A.weight", "a.lora_B.weight"])
        {'target_modules': ['a']}
    """
    return {"target_modules": sorted({name.split(".lora_")[0] for name in tensors})}


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


def _read(start: str, pipeline: Any) -> LoraFile:
    place = find_lora(start)
    options = {"return_lora_metadata": True, "use_safetensors": True}
    with_alphas = "return_alphas" in inspect.signature(pipeline.lora_state_dict).parameters
    if with_alphas:
        options["return_alphas"] = True
    try:
        read = pipeline.lora_state_dict(str(place or start), **options)
    # Converters of other forms and the hub's client raise whatever they like.
    except Exception as error:
        told = f"`start` {start!r} could not be read as a LoRA of {pipeline.__name__}"
        if place is not None:
            raise ValueError(f"{told}: {error}; convert it to the form of diffusers") from error
        raise FileNotFoundError(f"{told}: {why_unread(error, start)}") from error
    alphas = {name: float(each) for name, each in (read[1] or {}).items()} if with_alphas else None
    return LoraFile(read[0], alphas, read[-1])


def _only_file(folder: Path) -> Path:
    found = sorted(folder.glob("*.safetensors"))
    named = [path for path in found if path.name == WEIGHTS] or found
    if len(named) != 1:
        names = ", ".join(path.name for path in found) or "no .safetensors file"
        raise ValueError(
            f"`start` must be a folder with {WEIGHTS}, got {str(folder)!r} with {names}; "
            "name the file itself"
        )
    return named[0]


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


def _metadata(
    found: Mapping[str, Any], prefix: str, tensors: Mapping[str, Tensor]
) -> dict[str, Any] | None:
    kept = {name: found.get(f"{prefix}.{name}") for name in COMPUTED}
    kept = {name: value for name, value in kept.items() if value is not None}
    if not kept:
        return None
    return kept | targets_of(tensors)


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
        outer = module.in_features if match["side"] == "A" else module.out_features
        if tensor.shape[-1 if match["side"] == "A" else 0] != outer:
            raise ValueError(
                f"`start` {start!r} holds {name!r} of shape {tuple(tensor.shape)}, where the "
                f"model has {outer} features; it is of a model of another size"
            )
        other = f"{match['layer']}.lora_{'B' if match['side'] == 'A' else 'A'}.weight"
        if other not in tensors:
            raise ValueError(f"`start` {start!r} holds {name!r} without {other!r}; it is damaged")
