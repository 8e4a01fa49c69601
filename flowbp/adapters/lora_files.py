"""Files of adapters: found, read as they are, and written for diffusers' own pipelines."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
from torch import Tensor, nn

from flowbp.adapters.component_files import add_to_header, check_weight_file, read_header
from flowbp.adapters.lora_layers import adapter_layers, configuration_of, multiplied
from flowbp.extras import require
from flowbp.hub import cached_file, why_unread
from flowbp.place import is_hub_id, read_json

WEIGHTS = "pytorch_lora_weights.safetensors"
"""The file that a pipeline's ``load_lora_weights`` looks for in a folder."""

PEFT_WEIGHTS = "adapter_model.safetensors"
"""The file that peft writes; what its numbers mean is in `PEFT_CONFIG` beside it."""

PEFT_CONFIG = "adapter_config.json"

PEFT_PREFIX = "base_model.model."
"""What peft puts before every name."""

TRAINED_SCALES = "flowbp_trained_scales"
"""Where a file's header has the scales that are in its B."""

_METADATA = "lora_adapter_metadata"


@attrs.frozen(eq=False)
class RawLora:
    """An adapter as its file has it; peft's configuration is `metadata` within, `config` beside."""

    place: Path
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, Any] | None
    config: Mapping[str, Any] | None


def find_lora(start: str) -> Path | None:
    """The file that `start` names, or None where it is a hub id; only its header is read."""
    path = Path(start).expanduser()
    # The path of an empty text is the working folder.
    if path.is_dir() and start.strip():
        path = _only_file(path)
    elif not path.is_file():
        if is_hub_id(start):
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


def read_raw(start: str) -> RawLora:
    """Read an adapter's file, and the configuration that peft wrote beside it."""
    found = find_lora(start)
    place = found or _from_hub(start)
    metadata = read_header(place).get(_METADATA)
    tensors = require("safetensors.torch").load_file(place)
    return RawLora(
        place,
        tensors,
        None if metadata is None else _parsed(metadata, place),
        _config(place, tensors, hub_id=None if found else start),
    )


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


def _from_hub(hub_id: str) -> Path:
    hub, errors = require("huggingface_hub"), require("huggingface_hub.errors")
    try:
        for name in (WEIGHTS, PEFT_WEIGHTS):
            try:
                return Path(hub.hf_hub_download(hub_id, name))
            except errors.LocalEntryNotFoundError:
                # A hub that cannot be reached is not asked again.
                cached = cached_file(hub_id, PEFT_WEIGHTS)
                if cached is None:
                    raise
                return cached
            except errors.EntryNotFoundError:
                continue
        listed = [each.rfilename for each in hub.model_info(hub_id).siblings]
        names = sorted(n for n in listed if n.endswith(".safetensors") and "/" not in n)
        if len(names) == 1:
            return Path(hub.hf_hub_download(hub_id, names[0]))
    # Below the hub's own errors are those of its client, which is not always the same.
    except Exception as error:
        raise FileNotFoundError(
            f"`start` {hub_id!r} could not be read, its {WEIGHTS} or {PEFT_WEIGHTS}: "
            f"{why_unread(error, hub_id)}"
        ) from error
    raise ValueError(
        f"`start` {hub_id!r} must hold {WEIGHTS}, {PEFT_WEIGHTS} or a single other LoRA, got "
        f"{', '.join(names) or 'no .safetensors file'}; download one of its files and name that"
    )


def _config(
    place: Path, tensors: Mapping[str, Tensor], *, hub_id: str | None
) -> Mapping[str, Any] | None:
    named = place.name == PEFT_WEIGHTS
    if not (named or any(name.startswith(PEFT_PREFIX) for name in tensors)):
        return None
    beside = place.with_name(PEFT_CONFIG) if hub_id is None else _config_on_hub(hub_id)
    if beside is not None and beside.is_file():
        return read_json(beside, what="a folder with an adapter of peft")
    if not named:
        return None
    raise ValueError(
        f"`start` {str(place)!r} is an adapter of peft without its {PEFT_CONFIG}, which alone says "
        "how strong it is; put that file beside it"
    )


def _config_on_hub(hub_id: str) -> Path | None:
    errors = require("huggingface_hub.errors")
    try:
        return Path(require("huggingface_hub").hf_hub_download(hub_id, PEFT_CONFIG))
    except (OSError, errors.EntryNotFoundError) as error:
        unreached = isinstance(error, errors.LocalEntryNotFoundError)
        if isinstance(error, errors.EntryNotFoundError) and not unreached:
            return None
        raise FileNotFoundError(
            f"`start` {hub_id!r} could not be read, its {PEFT_CONFIG}: {why_unread(error, hub_id)}"
        ) from error


def _parsed(text: str, place: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ValueError(
            f"{place} is damaged: `{_METADATA}` in its header is no JSON object; copy or download "
            "it again"
        )
    return found


def save_lora(pipeline: Any, transformer: nn.Module, adapter: str, folder: Path) -> None:
    """Write an adapter so that ``pipe.load_lora_weights(folder)`` takes it, and nothing else.

    Its scale, alpha over rank, is multiplied into B and alpha is written as the rank, so that who
    reads the tensors alone applies what was trained. The product is rounded once, and exact where
    the scale is a power of two.
    """
    lora_copy(pipeline, transformer, adapter)(folder)


def lora_copy(pipeline: Any, transformer: nn.Module, adapter: str) -> Callable[[Path], None]:
    """Copy an adapter to the CPU; the function writes what `save_lora` does."""
    peft: Any = require("peft", extra="lora")
    scales = {
        name: float(layer.scaling[adapter]) for name, layer in adapter_layers(transformer).items()
    }
    tensors = {
        name: _with_scale(name, each, scales).to("cpu", copy=True).contiguous()
        for name, each in peft.get_peft_model_state_dict(transformer, adapter_name=adapter).items()
    }
    changed = {name: scale for name, scale in scales.items() if scale != 1}

    def write(folder: Path) -> None:
        pipeline.save_lora_weights(
            folder,
            transformer_lora_layers=tensors,
            transformer_lora_adapter_metadata=configuration_of(tensors),
        )
        add_to_header(folder / WEIGHTS, {TRAINED_SCALES: json.dumps(changed)} if changed else {})

    return write


def trained_scales(file: Path) -> dict[str, float]:
    """What B A was multiplied with in training, by layer, where that was not 1."""
    said = read_header(file).get(TRAINED_SCALES, "{}")
    try:
        return {str(name): float(scale) for name, scale in json.loads(said).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{file} is damaged: `{TRAINED_SCALES}` in its header is no JSON object of numbers; "
            "copy it again"
        ) from error


def _with_scale(name: str, tensor: Tensor, scales: Mapping[str, float]) -> Tensor:
    layer, _, rest = name.rpartition(".lora_")
    return multiplied(tensor, scales[layer]) if rest.startswith("B.") else tensor
