"""Texts, paths and places of a configuration, as they are written and as they are typed."""

from __future__ import annotations

import os
import re
import types
from pathlib import Path
from typing import Any, Union, get_args, get_origin

from .problems import Rejected, must_be
from .scalars import unwritable
from .tree import Typed

PLACE = os.PathLike[str]
"""In a union with `str`: a path, or the name of something elsewhere."""

TEXTS = {str, Path, PLACE}
"""What takes the text that was typed."""

NAME = 255
"""Bytes of the name of a file or a folder, at most."""

UNIONS = (Union, types.UnionType)


def meant(value: Any, kind: Any) -> Any:
    """What a value is for a field of some type: of one that was typed its text, or what YAML reads.

    Where None is allowed, the word `null` is it.

    Args:
        value: plain, or `Typed`.
        kind: annotation of the field.

    Raises:
        ValueError: it was typed, no text is asked for, and it is not YAML.

    Example:
        >>> meant(Typed("2026", 2026), str), meant(Typed("2026", 2026), int)
        ('2026', 2026)
    """
    if not isinstance(value, Typed):
        return value
    kinds = set(get_args(kind)) if get_origin(kind) in UNIONS else {kind}
    if kinds - {type(None)} <= TEXTS and not (value.text == "null" and value.value is None):
        return value.text
    if value.refusal:
        raise Rejected(value.refusal)
    return value.value


def text_of(value: Any, _: Any) -> str:
    """A text, of characters that a file and a terminal may get."""
    if isinstance(value, str):
        if unwritable(value):
            raise Rejected(unwritable(value))
        return value
    scalar = value is not None and not isinstance(value, list | dict)
    raise must_be("text", value, "put it in quotes" if scalar else "")


def path_of(value: Any, kind: Any) -> Path:
    """A path that is not empty, with ``~`` expanded."""
    if isinstance(value, str) and value.strip():
        _refuse_long_names(value)
        return Path(_at_home(text_of(value, kind)))
    scalar = isinstance(value, int | float)
    raise must_be("a path", value, "put it in quotes" if scalar else "")


def place_of(value: Any, kind: Any) -> str:
    """A path, likewise, or the name of something elsewhere, such as a hub id."""
    if isinstance(value, str) and value.strip():
        # Where a file can be named, a sentence can stand in its place.
        if not re.search(r"\s", value):
            _refuse_long_names(value)
        return _at_home(text_of(value, kind))
    raise must_be("a path or the name of a place such as a hub id", value)


def _refuse_long_names(text: str) -> None:
    for name in text.split(os.sep):
        size = len(os.fsencode(name)) if not unwritable(name) else 0
        if size > NAME:
            raise Rejected(
                f"holds the name {name[:8]}… of {size:,} bytes, and file systems take at most "
                f"{NAME}; shorten it"
            )


def _at_home(text: str) -> str:
    try:
        return os.fspath(Path(text).expanduser()) if text.startswith("~") else text
    except RuntimeError as error:
        raise must_be("a path", text, "there is no such user; write ./ before it") from error
