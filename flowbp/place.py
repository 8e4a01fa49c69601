"""A place that a setting names: a file or a folder on disk, or a hub id."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs

Place = str | os.PathLike[str]
"""A file, a folder, or a hub id such as ``owner/name``."""

WEIGHT_FILES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".gguf", ".sft")
"""How files of weights end; a place that does is one on disk, and no hub is asked for it."""

SINGLE_FILE_CURE = (
    "give the folder or hub id of the whole model as the source, and, of SD3 and FLUX.1, the file "
    "as transformer=file.safetensors"
)
"""What to do with a file of weights that is no source."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def on_disk(place: Place) -> Path | None:
    """The file or folder that a place names, with ``~`` expanded, or None if there is none."""
    path = Path(place).expanduser()
    # The path of an empty text is the working folder.
    return path if path.exists() and str(place).strip() else None


def local_folder(source: Place) -> Path | None:
    """The folder that `source` names, ``~`` expanded; None where it is a hub id."""
    if not str(source).strip():
        raise FileNotFoundError("`source` must be a folder or a hub id like owner/name, got ''")
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    single = path.suffix.lower() in WEIGHT_FILES
    if path.is_file() or single:
        there = "" if path.is_file() else f"; there is no file {path} either"
        raise FileNotFoundError(
            f"`source` must be a folder in diffusers layout or a hub id, got the single file "
            f"{str(source)!r}{there}; {SINGLE_FILE_CURE}"
        )
    if isinstance(source, str) and is_hub_id(source):
        return None
    raise FileNotFoundError(
        f"`source` must be a folder or a hub id like owner/name, got {str(source)!r}; "
        f"there is no folder {path}"
    )


def is_hub_id(text: str) -> bool:
    """Whether a text has the form ``owner/name``, and not that of a file of weights."""
    return _HUB_ID.fullmatch(text) is not None and not text.lower().endswith(WEIGHT_FILES)


def located(
    *, file: str | None = None, folder: str | None = None
) -> Callable[[Any, attrs.Attribute[Any], Any], None]:
    """A validator of an optional place: an existing path of a wanted kind, or a hub id.

    Args:
        file: What a file should hold, in words; None refuses files.
        folder: What a folder should hold, in words; None refuses folders.
    """
    kinds = {"a file": file, "a folder": folder}
    wanted = " or ".join(f"{kind} ({what})" for kind, what in kinds.items() if what)

    def validate(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        if value is None:
            return
        path = on_disk(value)
        if path is None and isinstance(value, str) and is_hub_id(value):
            return
        found = "there is no such path"
        if path is not None:
            kind = "a folder" if path.is_dir() else "a file"
            if kinds[kind]:
                return
            found = f"that is {kind}"
        raise ValueError(
            f"`{attribute.name}` must be {wanted} or a hub id like owner/name, got "
            f"{str(value)!r}; {found}"
        )

    return validate


def read_json(path: Path, *, what: str) -> Mapping[str, Any]:
    """Read a JSON object that a folder of a kind, `what`, must hold."""
    if not path.is_file():
        raise FileNotFoundError(
            f"`source` must be {what}, got {str(path.parent)!r}, which has no {path.name}"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} is not valid JSON: {error}; copy or download the whole folder again"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(
            f"{path} must hold a JSON object, got {type(content).__name__}; copy or download the "
            "whole folder again"
        )
    return content
