"""The keys of a configuration on the terminal: `--keys` of the commands."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from flowbp.cli.console import MISTAKE, print_error
from flowbp.config.keys import DEPENDS, REQUIRED, Key
from flowbp.config.problems import Rejected
from flowbp.settings import Settings
from flowbp.settings.key_reference import Entry, look_up, preset_values

_WIDEST = 100
_UNDESCRIBED = "(not described under `Args:` of its docstring)"
_KIND = 40
"""Columns that a kind takes before what follows it moves on."""


def print_keys(words: Sequence[str], root: Any, command: str) -> int:
    """Print the keys that words ask for, of a class of settings; all of them without words."""
    try:
        entries = look_up(words, root)
    except Rejected as error:
        return print_error(f"--keys: {error}", MISTAKE)
    width = min(_WIDEST, shutil.get_terminal_size((_WIDEST, 24)).columns)
    text = "\n\n".join(_text(each, width, command, presets=root is Settings) for each in entries)
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # `| head` has read what it wanted; nothing is to be said of it when Python ends either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _text(entry: Entry, width: int, command: str, *, presets: bool) -> str:
    lines = [*_heading(entry, width, presets), *_keys(entry, width, presets)]
    if entry.names:
        longest = max(map(len, entry.names))
        lines += ["", "  components by name:"]
        lines += [
            _hanging(f"    {name:<{longest}}  ", text, width) for name, text in entry.names.items()
        ]
        lines += ["", f"  {command} --keys {entry.title.split(' ')[0]} NAME shows the keys of one"]
    elif entry.component and not entry.keys:
        lines += ["", "  It has no keys."]
    return "\n".join(lines)


def _heading(entry: Entry, width: int, presets: bool) -> Iterator[str]:
    if entry.key is None:
        yield _hanging("", f"{entry.title}: {entry.text}", width)
    else:
        yield f"{entry.title}  {entry.key.kind}  {default_text(entry.key)}".rstrip()
        yield from _description(entry.key, entry, "  ", width, presets)


def _keys(entry: Entry, width: int, presets: bool) -> Iterator[str]:
    path = max((len(key.path) for key in entry.keys), default=0)
    kind = min(_KIND, max((len(key.kind) for key in entry.keys), default=0))
    for key in entry.keys:
        yield ""
        yield f"  {key.path:<{path}}  {key.kind:<{kind}}  {default_text(key)}".rstrip()
        yield from _description(key, entry, "      ", width, presets)


def _description(key: Key, entry: Entry, indent: str, width: int, presets: bool) -> Iterator[str]:
    yield _hanging(indent, key.text or _UNDESCRIBED, width)
    values = preset_values(key, entry.component) if presets else {}
    if values:
        said = "; ".join(f"{value} in {', '.join(names)}" for value, names in values.items())
        yield _hanging(f"{indent}presets: ", said, width)


def default_text(key: Key) -> str:
    """What holds where the key is left out, in words."""
    if key.below and "." not in key.path and key.default not in (REQUIRED, "null"):
        return "may be left out"
    return key.default if key.default in (REQUIRED, DEPENDS) else f"default {key.default}"


def _hanging(first: str, text: str, width: int) -> str:
    return textwrap.fill(
        text,
        width,
        initial_indent=first,
        subsequent_indent=" " * len(first),
        break_on_hyphens=False,
        break_long_words=False,
    )
