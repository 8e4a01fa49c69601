"""Where an adapter is read from: a file, a folder or a hub id, with what is said beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
from torch import Tensor

from flowbp.adapters.extras import require
from flowbp.adapters.hub import cached_file, why_unread
from flowbp.adapters.source import is_hub_id, read_json
from flowbp.adapters.weights import check_weight_file

WEIGHTS = "pytorch_lora_weights.safetensors"
"""The file that a pipeline's ``load_lora_weights`` looks for in a folder."""

PEFT_WEIGHTS = "adapter_model.safetensors"
"""The file that peft writes; what its numbers mean is in `PEFT_CONFIG` beside it."""

PEFT_CONFIG = "adapter_config.json"

PEFT_PREFIX = "base_model.model."
"""What peft puts before every name."""

_METADATA = "lora_adapter_metadata"


@attrs.frozen(eq=False)
class RawLora:
    """An adapter as its file has it.

    Args:
        place: the file.
        tensors: by their names in it.
        metadata: peft's configuration as diffusers writes it into the file; None without.
        config: the same as peft writes it beside the file; None without.
        header: all further texts in the file's header.
    """

    place: Path
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, Any] | None
    config: Mapping[str, Any] | None
    header: Mapping[str, str]


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
    """Read an adapter's file, and the configuration that peft wrote beside it.

    Args:
        start: as in `find_lora`; a hub id is read from the cache or downloaded.

    Returns:
        What is there.

    Raises:
        FileNotFoundError: a hub id that cannot be read.
        ValueError: no LoRA is there, or a file is damaged.

    Example:
        See `flowbp.adapters.lora_files.read_lora`.
    """
    place = find_lora(start) or _from_hub(start)
    check_weight_file(place)
    tensors = require("safetensors.torch").load_file(place)
    with require("safetensors").safe_open(place, framework="pt") as file:
        header: dict[str, str] = file.metadata() or {}
    said = header.pop(_METADATA, None)
    metadata = None if said is None else _parsed(said, place)
    return RawLora(place, tensors, metadata, _config(start, place, tensors), header)


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
                # Whoever cannot be reached is not asked again.
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


def _config(start: str, place: Path, tensors: Mapping[str, Tensor]) -> Mapping[str, Any] | None:
    named = place.name == PEFT_WEIGHTS
    if not (named or any(name.startswith(PEFT_PREFIX) for name in tensors)):
        return None
    beside: Path | None = place.with_name(PEFT_CONFIG)
    if find_lora(start) is None:
        beside = _config_on_hub(start)
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
    except errors.LocalEntryNotFoundError as error:
        raise FileNotFoundError(
            f"`start` {hub_id!r} could not be read, its {PEFT_CONFIG}: {why_unread(error, hub_id)}"
        ) from error
    except errors.EntryNotFoundError:
        return None
    except OSError as error:
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
