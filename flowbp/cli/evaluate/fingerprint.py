"""What a component is made of besides its configuration: files, commits of the hub, code."""

from __future__ import annotations

import ast
import functools
import hashlib
import inspect
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.machinery import EXTENSION_SUFFIXES, SOURCE_SUFFIXES
from pathlib import Path
from typing import Any

import attrs

from flowbp import files
from flowbp.config import Component, DamagedError, read_sealed, sealed
from flowbp.config.arguments import key_of
from flowbp.config.tree import Step, path_text
from flowbp.hub import cached_commit
from flowbp.settings.component_needs import towers_of
from flowbp.settings.registries import METRICS

DIGESTS = ".digests.json"
_SMALL, _MUCH = 2**20, 2**30
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_OURS = __name__.partition(".")[0]
_MODULES = (*SOURCE_SUFFIXES, *EXTENSION_SUFFIXES)
_INSTALLED = {"site-packages", "dist-packages"}
_Path = tuple[Step, ...]


@attrs.frozen
class _Remembered:
    """What the file holds: size and times, and the digest, by the paths of files."""

    files: Mapping[str, tuple[list[int], str]]


@attrs.frozen(eq=False)
class Digests:
    """Digests of the content of files; a large one is read again only where it has changed."""

    folder: Path
    _known: dict[str, tuple[list[int], str]] = attrs.field(init=False, repr=False)

    @_known.default
    def _read(self) -> dict[str, tuple[list[int], str]]:
        try:
            return dict(read_sealed(_Remembered, self.folder / DIGESTS, cure="remove it").files)
        # It only saves time: without it, everything is read.
        except DamagedError:
            return {}

    def of(
        self, place: Path, *, counts: Callable[[str], bool] = lambda name: True
    ) -> Mapping[str, str]:
        """The digests of a file, or of all files of a folder."""
        if place.is_file():
            return {".": self._of(place, place.parent, [place.name])[place.name]}
        names = [path.relative_to(place).as_posix() for path in sorted(_files_below(place))]
        return self._of(place, place, [name for name in names if counts(name)])

    def keep(self) -> None:
        """Write what is remembered."""
        if self._known:
            files.write_atomically(self.folder / DIGESTS, sealed({"files": self._known}))

    def _of(self, place: Path, folder: Path, names: Sequence[str]) -> Mapping[str, str]:
        paths = {name: str((folder / name).resolve()) for name in names}
        states = {name: _state(folder / name) for name in names}
        known = {name: self._known.get(paths[name], ([], "")) for name in names}
        unread = [name for name in names if known[name][0] != states[name]]
        size = sum(states[name][0] for name in unread)
        if size > _MUCH:
            print(
                f"hashing {size / 2**30:.1f} GiB in {place}, to recognise the files later",
                flush=True,
            )
        known |= {
            name: (states[name], digest) for name, digest in files.digests(folder, unread).items()
        }
        large = [name for name in unread if states[name][0] >= _SMALL]
        self._known.update((paths[name], known[name]) for name in large)
        return {name: known[name][1] for name in names}


def _state(path: Path) -> list[int]:
    found = path.stat()
    # The last time is set by every change, whatever time a program then gives the file.
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def _files_below(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.is_file():
            yield path
        elif path.is_dir() and not path.name.startswith(".") and path.name != "__pycache__":
            yield from _files_below(path)


def fingerprint(component: Component[Any], digests: Digests) -> dict[str, Any]:
    """What a component depends on that its configuration does not show, as a tree of JSON.

    Digests of the files and folders that its arguments name, of the code of others and of flowbp's
    own; the commits of hub ids, None where the cache has none.
    """
    found: dict[str, Any] = {"code flowbp": own_code()}
    revisions: dict[_Path, str] = {}
    for path, value in _values(component, ()):
        if isinstance(value, Component):
            if isinstance(revision := value.arguments.get("revision"), str):
                revisions[*path, "source"] = revision
            found |= {f"code {name}": code for name, code in _code_of(value, digests).items()}
        else:
            _add(found, path_text(path), str(value), digests, revisions.get(path))
    # What is taken where an argument is null.
    for place in sorted(towers_of(component)):
        if not Path(place).is_absolute():
            _add(found, f"model {place}", place, digests)
    return found


def differences(before: Any, now: Any, path: str = "") -> Iterator[str]:
    """Where two trees of JSON differ; None is something that is not known, and differs not."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in dict.fromkeys((*before, *now)):
            old, new = (tree.get(key, "") for tree in (before, now))
            yield from differences(old, new, f"{path} {key}".strip())
    elif before != now and before is not None and now is not None:
        yield path


def _add(
    found: dict[str, Any], name: str, text: str, digests: Digests, revision: str | None = None
) -> None:
    try:
        place = Path(text).expanduser()
        there = bool(text) and place.exists()
    # A question to a judge is too long for a name, for one.
    except (OSError, RuntimeError):
        there = False
    if there:
        found[name] = dict(digests.of(place))
    elif _HUB_ID.fullmatch(text):
        found[name] = cached_commit(text, revision)


def _values(value: Any, path: _Path) -> Iterator[tuple[_Path, Any]]:
    """Components and texts, wherever they are in the arguments."""
    items: Iterator[tuple[Step, Any]] | None = None
    if isinstance(value, Component):
        yield path, value
        yield from (((*path, name), each) for name, each in _default_places(value))
        items = iter(value.arguments.items())
    elif isinstance(value, str | os.PathLike):
        yield path, value
    elif isinstance(value, Mapping):
        items = iter(value.items())
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    elif attrs.has(type(value)):
        items = ((key_of(each), getattr(value, each.name)) for each in attrs.fields(type(value)))
    for step, each in items or ():
        yield from _values(each, (*path, step))


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


@functools.cache
def own_code() -> str:
    """The SHA-256 of flowbp's own code."""
    folder = Path(__file__).parents[2]
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.py"))
    return hashlib.sha256(json.dumps(files.digests(folder, names)).encode()).hexdigest()


def _code_of(component: Component[Any], digests: Digests) -> dict[str, dict[str, str]]:
    """Digests of the code of others that a component is named by and is defined in.

    That is all of a package, and all that lies in one folder with it and is imported by its code;
    what is installed beside an installed package is not followed.
    """
    named = component.name.partition(":")[0] if ":" in component.name else ""
    defined = getattr(component.target, "__module__", None) or ""
    left = [place for name in dict.fromkeys((named, defined)) for place in _imported(name)]
    found: dict[Path, Mapping[str, str]] = {}
    while left:
        place = left.pop()
        if place in found:
            continue
        found[place] = digests.of(place, counts=lambda name: name.endswith(_MODULES))
        if not _INSTALLED & set(place.parts):
            imports = (_imports(place / name, each) for name, each in found[place].items())
            left += _beside(place, sorted(frozenset().union(*imports)))
    by_name: dict[str, dict[str, str]] = {}
    for place in sorted(found):
        by_name.setdefault(place.name, {}).update(found[place])
    return by_name


def _imported(name: str) -> list[Path]:
    """Where the package is that a module is in, or the module itself."""
    top = name.partition(".")[0]
    if not top or top == _OURS or top in sys.stdlib_module_names:
        return []
    module = sys.modules.get(top)
    file = getattr(module, "__file__", None)
    alone = [Path(file)] if file is not None and Path(file).is_file() else []
    return [Path(each) for each in getattr(module, "__path__", ())] or alone


def _beside(place: Path, names: Sequence[str]) -> Iterator[Path]:
    for name in names:
        folder, file = place.with_name(name), place.with_name(f"{name}.py")
        if name != _OURS:
            yield from [folder] if any(folder.glob("*.py")) else [file] if file.is_file() else []


@functools.cache
def _imports(path: Path, digest: str) -> frozenset[str]:
    """Top-level names that a module imports; its digest stands for its content."""
    try:
        tree = ast.parse(path.read_bytes() if path.suffix in SOURCE_SUFFIXES else b"")
    # Such as a template in a package; what cannot be parsed imports nothing.
    except (SyntaxError, ValueError):
        return frozenset()
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {each.name.partition(".")[0] for each in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.partition(".")[0])
    return frozenset(found)
