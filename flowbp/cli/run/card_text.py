"""Texts of a model card: as code, and without places on this machine."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flowbp.place import on_disk
from flowbp.settings import resolved_values

_MOST = 400
"""Characters of a setting that are shown; a list of prompts may be long."""


# A folder of the hub's cache has the id in its path.
_CACHED = re.compile(r"models--([^/]+)--([^/]+)/snapshots/[^/]+/?$")


def public(text: str) -> str:
    """A place of the settings; one on this machine by its last name, or by its hub id."""
    if (cached := _CACHED.search(text)) is not None:
        return "/".join(cached.groups())
    if not (text.startswith(("/", "~")) or _is_there(text)):
        return text
    return Path(os.path.abspath(Path(text).expanduser())).name


def _is_there(text: str) -> bool:
    try:
        return on_disk(text) is not None
    # A text may be too long for a name, or have a zero in it.
    except (OSError, RuntimeError, ValueError):
        return False


def public_values(settings: object) -> Any:
    """The settings in a summary, in which places on this machine have their last names."""
    return _without_places(resolved_values(settings, defaults=False, place=public))


def _without_places(tree: Any) -> Any:
    """Texts that name a file or a folder that is there, too, though their keys take any text."""
    if isinstance(tree, Mapping):
        return {key: _without_places(item) for key, item in tree.items()}
    if isinstance(tree, list):
        return [_without_places(item) for item in tree]
    is_place = isinstance(tree, str) and tree.startswith(("/", "~")) and _is_there(tree)
    return public(tree) if is_place else tree


def code(text: str) -> str:
    """A text as code in a line, cut where it is long."""
    line = " ".join(text.replace("`", "'").split())
    return f"`{line if len(line) <= _MOST else f'{line[:_MOST]}…'}`"
