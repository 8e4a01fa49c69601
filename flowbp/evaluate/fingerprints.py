"""What a component is made of besides its configuration: files, commits of the hub, code."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs

from flowbp.adapters.hub import cached_commit
from flowbp.configuration import Component
from flowbp.configuration.tree import Step, path_text
from flowbp.evaluate.digests import Digests
from flowbp.evaluate.sources import OURS, code_of, own_code
from flowbp.settings.needs import towers_of
from flowbp.settings.registries import METRICS

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_Path = tuple[Step, ...]


def made_of(component: Component[Any], digests: Digests) -> dict[str, Any]:
    """What a component depends on that its configuration does not show.

    These are: the content of files and folders that its arguments name; for hub ids the commit that
    the cache has; the code of others that it is made by; and flowbp's own.

    Args:
        component: any, with those in its arguments.
        digests: of files.

    Returns:
        A tree of JSON: digests by the names of files, by the arguments' names and by packages. A
        commit is None where the cache has none.

    Raises:
        OSError: a file cannot be read.

    Example:
        >>> from flowbp.metrics import clip_embedding
        >>> clip = Component("clip", clip_embedding, {"source": "a/b"})
        >>> [*made_of(clip, Digests(Path("/none"))).items()][1:]
        [('source', None), ('model a/b', None)]
    """
    found: dict[str, Any] = {f"code {OURS}": own_code()}
    for path, value in _values(component, ()):
        if isinstance(value, Component):
            found |= {f"code {name}": files for name, files in code_of(value, digests).items()}
        else:
            _add(found, path_text(path), str(value), digests)
    # What is taken where an argument is null.
    for place in sorted(towers_of(component)):
        if not Path(place).is_absolute():
            _add(found, f"model {place}", place, digests)
    return found


def differences(before: Any, now: Any, path: str = "") -> Iterator[str]:
    """Where two trees of JSON differ; None is something that is not known, and differs not.

    Args:
        before: one tree.
        now: another.
        path: of both.

    Yields:
        Names of leaves.

    Example:
        >>> list(differences({"a": {"b": 1}, "c": 2}, {"a": {"b": 2}, "c": None}))
        ['a b']
    """
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in dict.fromkeys((*before, *now)):
            old, new = (tree.get(key, "") for tree in (before, now))
            yield from differences(old, new, f"{path} {key}".strip())
    elif before != now and before is not None and now is not None:
        yield path


def _add(found: dict[str, Any], name: str, text: str, digests: Digests) -> None:
    place = _on_disk(text)
    if place is not None:
        found[name] = dict(digests.of(place))
    elif _HUB_ID.fullmatch(text):
        found[name] = cached_commit(text)


def _on_disk(text: str) -> Path | None:
    try:
        place = Path(text).expanduser()
        return place if text and place.exists() else None
    # A question to a judge is too long for a name, for one.
    except (OSError, RuntimeError):
        return None


def _values(value: Any, path: _Path) -> Iterator[tuple[_Path, Any]]:
    """Components and texts, wherever they are in the arguments."""
    if isinstance(value, Component):
        yield path, value
        for name, each in value.arguments.items():
            yield from _values(each, (*path, name))
        for name, each in _default_places(value):
            yield (*path, name), each
    elif isinstance(value, str | os.PathLike):
        yield path, value
    elif isinstance(value, Mapping):
        for key, each in value.items():
            yield from _values(each, (*path, key))
    elif isinstance(value, list | tuple):
        for number, each in enumerate(value):
            yield from _values(each, (*path, number))
    elif attrs.has(type(value)):
        for field in attrs.fields(type(value)):
            yield from _values(getattr(value, field.name), (*path, field.alias))


def _default_places(component: Component[Any]) -> Iterator[tuple[str, Any]]:
    """Defaults that are read from; any other is of the code, whatever lies on the disk."""
    if component.ready:
        return
    needs = getattr(component.target, "needs", None)
    read = inspect.signature(needs).parameters.keys() if callable(needs) else set()
    for name, parameter in inspect.signature(component.target).parameters.items():
        if name in component.arguments or name in METRICS.offers:
            continue
        place = name in read or "Path" in str(parameter.annotation)
        if isinstance(parameter.default, os.PathLike) or (
            place and isinstance(parameter.default, str)
        ):
            yield name, parameter.default
