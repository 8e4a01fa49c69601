"""What pages take from the code: the keys of the YAML, and the help of the commands.

A page has a fenced block in its place, such as ```{keys} run```, which the hosting site of the code
shows as it stands.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from flowbp.cli.evaluate.settings import EvaluateSettings
from flowbp.cli.keys import default_text
from flowbp.config import Registry
from flowbp.config.keys import Key
from flowbp.config.problems import Rejected
from flowbp.settings import REGISTRIES, Settings
from flowbp.settings.key_reference import (
    Entry,
    component,
    home,
    kind_word,
    preset_values,
    sections,
)
from flowbp.study.settings import StudySettings

_BLOCK = re.compile(r"^```\{(keys|components|help)\} *(\S*)\n```$", re.MULTILINE)
_ROOTS = {"run": Settings, "evaluation": EvaluateSettings, "study": StudySettings}


def fill(app: object, page: str, source: list[str]) -> None:
    """Put what is generated in the place of a page's blocks."""
    source[0] = _BLOCK.sub(lambda found: _FILLED[found[1]](found[2]), source[0])


def _keys(root: str) -> str:
    entries = sections(_ROOTS[root])
    return "\n\n".join(_section(entry, presets=root == "run") for entry in entries)


def _section(entry: Entry, *, presets: bool) -> str:
    assert entry.key is not None
    takes = _takes(entry.key)
    lines = [f"## `{entry.title}`", "", f"{_plain(entry.text)} *{takes[0].upper()}{takes[1:]}.*"]
    lines += ["", *_table(entry, presets)] if entry.keys else []
    if entry.names and entry.key.registry is not None:
        registry = entry.key.registry
        links = (f"[{name}](components.md#{_anchor(registry, name)})" for name in entry.names)
        lines += ["", f"[Components](components.md) by name: {', '.join(links)}."]
    return "\n".join(lines)


def _anchor(registry: Registry, name: str) -> str:
    # A reward's name stands for the reward where a judge or a metric is asked for.
    owners = (each for each in (registry, *registry.also) if name in each.targets)
    return f"{kind_word(next(owners, registry))}-{name}"


def _components(_: str) -> str:
    return "\n\n".join(_kinds())


def _kinds() -> Iterator[str]:
    for registry in REGISTRIES:
        if not registry.targets:
            continue
        word = kind_word(registry)
        yield f"## {registry.kind.capitalize()}s"
        for name in registry.targets:
            try:
                entry = component(registry, name, above=home(registry, Settings))
            except Rejected as missing:
                yield f"### {word} {name}\n\n{_plain(str(missing))}."
                continue
            lines = [f"### {word} {name}", "", _plain(entry.text)]
            lines += ["", *(_table(entry, True) if entry.keys else ["It has no keys."])]
            yield "\n".join(lines)


def _table(entry: Entry, presets: bool) -> Iterator[str]:
    yield "| key | takes | what it does |"
    yield "|---|---|---|"
    for key in entry.keys:
        text = _plain(key.text)
        values = preset_values(key, entry.component) if presets else {}
        if values:
            text += f" *Presets: {_presets(values)}.*"
        yield f"| `{key.path}` | {_takes(key)} | {text} |"


def _presets(values: Mapping[str, tuple[str, ...]]) -> str:
    return "; ".join(f"`{value}` in {_plain(', '.join(names))}" for value, names in values.items())


def _takes(key: Key) -> str:
    return f"{key.kind}; {_plain(default_text(key))}"


def _plain(text: str) -> str:
    """A text in which only backquotes mean something."""
    pieces = text.split("`")
    pieces[::2] = (re.sub(r"([\\<*_\[\]|])", r"\\\1", piece) for piece in pieces[::2])
    # A table ends its cells at bars in code too.
    pieces[1::2] = (piece.replace("|", r"\|") for piece in pieces[1::2])
    return "`".join(pieces)


def _help(module: str) -> str:
    printed = io.StringIO()
    os.environ["COLUMNS"] = "90"
    main: Any = importlib.import_module(module).main
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        main(["--help"])
    return f"```text\n{printed.getvalue()}```"


_FILLED: Mapping[str, Callable[[str], str]] = {
    "keys": _keys,
    "components": _components,
    "help": _help,
}
