"""Weights that do not belong to their model are refused before they are used."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flowbp.adapters.extras import require

# Of safetensors: bytes that hold the header's length, and where its texts are.
_SIZE, _TEXTS = 8, "__metadata__"


def check_weight_files(folder: Path) -> None:
    """Refuse a damaged safetensors file; only its header is read.

    Args:
        folder: Where the files are; files of other formats are not looked at.

    Raises:
        ValueError: A file that was cut off or is something else.

    Example:
        >>> from flowbp.shapes.embedded import base_folder
        >>> check_weight_files(base_folder() / "vae")
    """
    for path in sorted(folder.glob("*.safetensors")):
        check_weight_file(path)


def check_weight_file(path: Path) -> None:
    """Refuse a safetensors file that is damaged; only its header is read.

    Args:
        path: The file.

    Raises:
        ValueError: It was cut off or is something else.

    Example:
        See `check_weight_files`.
    """
    safetensors = require("safetensors")
    try:
        with safetensors.safe_open(path, framework="pt"):
            pass
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"{path} is damaged, {error}; delete it, and copy or download it again"
        ) from error


def read_header(path: Path) -> dict[str, str]:
    """The texts in the header of a safetensors file.

    Args:
        path: The file.

    Returns:
        Texts by their keys.

    Raises:
        ValueError: The file is damaged.

    Example:
        >>> from flowbp.shapes.embedded import base_folder
        >>> read_header(base_folder() / "vae" / "diffusion_pytorch_model.safetensors")
        {'format': 'pt'}
    """
    check_weight_file(path)
    with require("safetensors").safe_open(path, framework="pt") as file:
        return dict(file.metadata() or {})


def add_to_header(path: Path, texts: Mapping[str, str]) -> None:
    """Add texts to the header of a safetensors file, and put all of it in sorted order.

    The library writes them in another order each time, so that equal files differ in bytes.

    Args:
        path: The file; it is written anew.
        texts: By their keys; nothing only sorts.

    Example:
        >>> from tempfile import mkdtemp
        >>> from safetensors.torch import save_file
        >>> import torch
        >>> path = Path(mkdtemp()) / "a.safetensors"
        >>> save_file({"x": torch.ones(1)}, path, metadata={"format": "pt"})
        >>> add_to_header(path, {"by": "me"})
        >>> sorted(read_header(path).items())
        [('by', 'me'), ('format', 'pt')]
    """
    content = path.read_bytes()
    size = int.from_bytes(content[:_SIZE], "little")
    entries = json.loads(content[_SIZE : _SIZE + size])
    texts = entries.pop(_TEXTS, {}) | dict(texts)
    sorted_texts = {_TEXTS: dict(sorted(texts.items()))} if texts else {}
    header = json.dumps(sorted_texts | entries, ensure_ascii=False, separators=(",", ":")).encode()
    # The format pads with spaces, so that tensors are aligned.
    header += b" " * (-len(header) % _SIZE)
    path.write_bytes(len(header).to_bytes(_SIZE, "little") + header + content[_SIZE + size :])


def check_loading_report(
    report: Mapping[str, Any], *, source: str | os.PathLike[str], model: str
) -> None:
    """Refuse a model that was loaded with parameters its weights do not hold.

    Args:
        report: The loading information that ``from_pretrained`` returns on request.
        source: Where the model came from, for the message.
        model: What was loaded, for the message.

    Raises:
        ValueError: Parameters without weights, or with weights of another shape.

    Example:
        >>> report = {"missing_keys": ["proj.bias"], "mismatched_keys": []}
        >>> check_loading_report(report, source="folder", model="CLIPModel")
        Traceback (most recent call last):
            ...
        ValueError: `source` 'folder' has no fitting weights for 1 parameters of its CLIPModel, \
the first being proj.bias; they would be random: copy or download the whole model
    """
    unfit = sorted({*report["missing_keys"], *(key[0] for key in report["mismatched_keys"])})
    if unfit:
        raise ValueError(
            f"`source` {str(source)!r} has no fitting weights for {len(unfit)} parameters of its "
            f"{model}, the first being {unfit[0]}; they would be random: copy or download the "
            "whole model"
        )
