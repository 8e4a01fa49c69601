"""What a component is made of besides its configuration: files, commits of the hub, code."""

from __future__ import annotations

import hashlib
import inspect
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import attrs

from flowbp.cli.evaluate.code_digests import code_of, own_code
from flowbp.config import Component, DamagedError, read_sealed, sealed
from flowbp.config.tree import Step, path_text
from flowbp.files import write_atomically
from flowbp.hub import cached_commit
from flowbp.settings.component_needs import towers_of
from flowbp.settings.registries import METRICS

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_Path = tuple[Step, ...]


def made_of(component: Component[Any], digests: Digests) -> dict[str, Any]:
    """What a component depends on that its configuration does not show, as a tree of JSON.

    Digests of the files and folders that its arguments name, of the code of others and of flowbp's
    own; the commits of hub ids, None where the cache has none.
    """
    found: dict[str, Any] = {"code flowbp": own_code()}
    for path, value in _values(component, ()):
        if isinstance(value, Component):
            code = code_of(value, lambda path: digests.of(path)["."])
            found |= {f"code {name}": files for name, files in code.items()}
        else:
            _add(found, path_text(path), str(value), digests)
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


DIGESTS = ".digests.json"
_SMALL, _MUCH = 2**20, 2**30
_READERS = 4


@attrs.frozen
class _Remembered:
    """What the file holds: size and times, and the digest, by the paths of files."""

    files: Mapping[str, tuple[list[int], str]]


def _all(_: str) -> bool:
    return True


@attrs.frozen(eq=False)
class Digests:
    """Digests of the content of files; a large one is read again only where it has changed."""

    folder: Path
    _known: dict[str, tuple[list[int], str]] = attrs.field(init=False, repr=False)

    @_known.default
    def _read(self) -> dict[str, tuple[list[int], str]]:
        try:
            found = read_sealed(_Remembered, self.folder / DIGESTS, cure="remove it")
        # It only saves time: without it, everything is read.
        except DamagedError:
            return {}
        return dict(found.files)

    def of(self, place: Path, *, counts: Callable[[str], bool] = _all) -> Mapping[str, str]:
        """The digests of a file, or of all files of a folder."""
        if place.is_file():
            self._announce(place, [place])
            return {".": self._digest(place)}
        paths = [p for p in sorted(_files_below(place)) if counts(p.relative_to(place).as_posix())]
        self._announce(place, paths)
        with ThreadPoolExecutor(_READERS) as readers:
            digests = readers.map(self._digest, paths)
            names = (path.relative_to(place).as_posix() for path in paths)
            return dict(zip(names, digests, strict=True))

    def keep(self) -> None:
        """Write what is remembered."""
        if self._known:
            write_atomically(self.folder / DIGESTS, sealed({"files": self._known}))

    def _announce(self, place: Path, paths: Sequence[Path]) -> None:
        """Print that much is read, which takes a while."""
        sizes = {path: _status(path)[0] for path in paths}
        unread = sum(size for path, size in sizes.items() if self._remembered(path) is None)
        if unread > _MUCH:
            print(
                f"hashing {unread / 2**30:.1f} GiB in {place}, to recognise the files later",
                flush=True,
            )

    def _remembered(self, path: Path) -> str | None:
        status, digest = self._known.get(str(path.resolve()), ([], ""))
        return digest if status == _status(path) else None

    def _digest(self, path: Path) -> str:
        digest, status = self._remembered(path), _status(path)
        if digest is None:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            if status[0] >= _SMALL:
                self._known[str(path.resolve())] = (status, digest)
        return digest


def _status(path: Path) -> list[int]:
    found = path.stat()
    # The last time is set by every change, whatever time a program then gives the file.
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def _files_below(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.is_file():
            yield path
        elif path.is_dir() and not path.name.startswith(".") and path.name != "__pycache__":
            yield from _files_below(path)
