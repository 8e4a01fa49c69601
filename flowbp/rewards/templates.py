"""Questions with a place for the prompt, whose wording belongs to others and is not shipped."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import attrs

PLACE = "{prompt}"
"""Where a template takes the prompt."""


def text_or_file(
    value: str | os.PathLike[str] | None, *, argument: str, asked: str, where: str
) -> str:
    """A template that was given as text, or as the path of a file that holds one.

    `argument`, who is `asked`, and `where` the right wording is to be found are for messages.
    """
    if value is None:
        raise ValueError(f"`{argument}` must be what {asked} is asked, a text or a file; {where}")
    text = str(value)
    if PLACE in text:
        return text
    path = Path(text).expanduser()
    # Unlike Path's, this is false of a text so long that the system would not look for it.
    if not os.path.isfile(path):
        raise ValueError(
            f"`{argument}` must be a text with {PLACE} in it or a file that holds one, got "
            f"{text!r}, and there is no such file; {where}"
        )
    return path.read_text(encoding="utf-8")


def one_place(_: Any, attribute: attrs.Attribute[Any], value: str) -> None:
    """A validator: a template with one place for the prompt."""
    if value.count(PLACE) != 1:
        raise ValueError(
            f"`{attribute.name}` must hold {PLACE} once, got {value.count(PLACE)} times; the "
            "prompt goes there"
        )
