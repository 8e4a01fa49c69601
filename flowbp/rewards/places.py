"""Where a published reward's files are: checked when a configuration is, before anything loads."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs

from flowbp.rewards.clip_tokenizer import has_tokenizer

Place = str | os.PathLike[str]
Validator = Callable[[Any, "attrs.Attribute[Any]", Any], None]

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_FILE = re.compile(r".*\.(pt|pth|bin|ckpt|safetensors)", re.IGNORECASE)


def on_disk(place: Place) -> Path | None:
    """The file or folder that a place names, or None for a hub id.

    Args:
        place: a path, or ``owner/name``.

    Returns:
        Its path with ``~`` expanded, or None where there is none.

    Example:
        >>> on_disk("xswu/HPSv2") is None
        True
    """
    path = Path(place).expanduser()
    # The path of an empty text is the working folder.
    return path if path.exists() and str(place).strip() else None


def located(*, file: str | None = None, folder: str | None = None) -> Validator:
    """A validator: an existing path of a wanted kind, or a hub id.

    Args:
        file: what a file is to be, in words; None refuses files.
        folder: what a folder is to be, in words; None refuses folders.

    Returns:
        A validator of attrs, which lets None pass and raises ValueError.

    Example:
        >>> Words = attrs.make_class(
        ...     "Words", {"tokenizer": attrs.field(validator=located(folder="a CLIP tokenizer"))}
        ... )
        >>> Words("/none")
        Traceback (most recent call last):
            ...
        ValueError: `tokenizer` must be a folder (a CLIP tokenizer) or a hub id like owner/name, \
got '/none'; there is no such path
    """
    kinds = {"a file": file, "a folder": folder}
    wanted = " or ".join(f"{kind} ({what})" for kind, what in kinds.items() if what)

    def validate(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        if value is None:
            return
        path = on_disk(value)
        # A file's name with a single folder before it looks like a hub id.
        is_hub_id = isinstance(value, str) and _HUB_ID.fullmatch(value) and not _FILE.match(value)
        if path is None and is_hub_id:
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


def tokenizer_place(given: Place | None, source: Place, *, own: bool, published: str) -> Place:
    """Which tokenizer belongs to a source.

    Args:
        given: chosen by the user, which wins.
        source: of the model.
        own: whether the repository of a hub id brings its own.
        published: what the published model was trained with.

    Returns:
        `given`; else the source's own, where it has one; else the published one.

    Example:
        >>> tokenizer_place(None, "xswu/HPSv2", own=False, published="openai/clip")
        'openai/clip'
    """
    if given is not None:
        return given
    path = on_disk(source)
    own = own if path is None else has_tokenizer(path)
    return source if own else published
