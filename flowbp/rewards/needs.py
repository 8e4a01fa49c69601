"""What a component reads when it is built, so that it can be checked before anything is loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import attrs

from flowbp.extras import packaged, require
from flowbp.hub import address, cached_file
from flowbp.place import Place, on_disk
from flowbp.rewards.pretrained import TOKENIZER_FILES, check_model, check_tokenizer
from flowbp.rewards.weight_files import check_whole
from flowbp.source_files import PublishedFile, find, resolve

_Target = TypeVar("_Target", bound=Callable[..., Any])
_UNITS = ("bytes", "kB", "MB", "GB")


@attrs.frozen(kw_only=True)
class Need:
    """One thing that a component reads when it is built.

    A class or function that a configuration can name says what it reads by an attribute `needs`: a
    callable that takes some of its arguments, by their names, and gives these.

    Args:
        check: Raises what is wrong with it, and loads no weights.
        tower: The place by which `Towers` shares the model in it; None where there is none.
        location: Says from where it is read, to be listed; None where nothing is.

    Example:
        >>> import os
        >>> class Scale:
        ...     def __init__(self, path="scale.pt"):
        ...         self.weights = open(path)
        ...
        ...     @staticmethod
        ...     def needs(path):
        ...         return [Need(check=lambda: os.stat(path))]
        >>> [need.tower for need in Scale.needs("scale.pt")]
        [None]
    """

    check: Callable[[], Any]
    tower: Place | None = None
    location: Callable[[], str] | None = None


def needing(needs: Callable[..., Iterable[Need]]) -> Callable[[_Target], _Target]:
    """A decorator: say what a function reads, as a class does by its own `needs`."""

    def mark(target: _Target) -> _Target:
        target.needs = needs  # type: ignore[attr-defined]
        return target

    return mark


def package(module: str, *, extra: str = "models") -> Need:
    """A package that must be installed; `extra` of flowbp installs it."""
    return Need(check=partial(require, module, extra=extra))


def file_need(
    source: Place,
    name: str,
    *,
    published: PublishedFile | None = None,
    size: int | None = None,
) -> Need:
    """A single file of weights, given by itself, its folder or its hub id.

    Args:
        source: A file, a folder or a hub id.
        name: Of the file in a folder or on the hub.
        published: What it must be, bit for bit; None accepts any file that is whole.
        size: Of the file on the hub, in bytes.
    """

    def check() -> None:
        path = find(source, name, published=published)
        if path is not None:
            check_whole(path)

    here = on_disk(source)
    path = (
        cached_file(str(source), name) if here is None else here / name if here.is_dir() else here
    )
    return Need(
        check=check,
        tower=path or source,
        location=partial(_location, source, (name,), alone=True, size=size),
    )


@attrs.frozen(kw_only=True)
class PackagedFile:
    """A published file that an installed package brings, unless a user names another place of it.

    Args:
        published: What it must be, bit for bit, where it is verified.
        module: Of the package; none of its code is run.
        file: Its path in the package.
        extra: Of flowbp, that installs it.
    """

    published: PublishedFile
    module: str
    file: str
    extra: str

    def path(self, source: Place | None, *, verify: bool) -> Path:
        """Where it is, at a file, a folder, a hub id, or None for the package; checked."""
        known, name = self.published if verify else None, self.published.name
        if source is not None:
            return resolve(source, name, published=known)
        path = packaged(self.module, self.file, extra=self.extra)
        if known is not None:
            known.check(path)
        return path

    def need(self, source: Place | None, *, verify: bool) -> Need:
        """That it is there, and what it should be."""
        if source is not None:
            known, size = self.published if verify else None, self.published.size
            return file_need(source, self.published.name, published=known, size=size)

        def location() -> str:
            path = self.path(None, verify=False)
            return here(path)

        return Need(check=partial(self.path, None, verify=verify), location=location)


def model_need(source: Place, *, check: Callable[[Path], None], argument: str = "source") -> Need:
    """A model in the layout of transformers; see `check_model`."""
    return Need(
        check=partial(check_model, source, argument=argument, check=check),
        tower=source,
        location=partial(_location, source, ("config.json",)),
    )


def tokenizer_need(
    place: Place, *, files: Sequence[str] = TOKENIZER_FILES, argument: str = "tokenizer"
) -> Need:
    """A tokenizer; see `check_tokenizer`."""
    return Need(
        check=partial(check_tokenizer, place, files=files, argument=argument),
        location=partial(_location, place, files),
    )


def _location(
    place: Place, files: Sequence[str], *, alone: bool = False, size: int | None = None
) -> str:
    """A path or an address, and in brackets whether it is here and how large it is.

    Args:
        place: A file, a folder or a hub id.
        files: Of a folder or repository, by any of which it is known to be there.
        alone: Whether the first of these is all that is read.
        size: Of that in bytes, where it is known.
    """
    path = on_disk(place)
    if path is not None:
        inside = [path / name for name in files if (path / name).is_file()]
        chosen = inside[0] if alone and inside else path
        return here(chosen)
    cached = [found for name in files if (found := cached_file(str(place), name)) is not None]
    there = address(str(place), files[0] if alone else None)
    if cached:
        return f"{there} (here, in the cache, {_size(cached[0] if alone else cached[0].parent)})"
    return f"{there} (not here{'' if size is None else f', {_in_units(size)}'})"


def here(place: Path) -> str:
    """A path, and in brackets that it is here and how large it is."""
    return f"{place} (here, {_size(place)})"


def _size(place: Path) -> str:
    files = [place] if place.is_file() else place.rglob("*")
    return _in_units(sum(path.stat().st_size for path in files if path.is_file()))


def _in_units(count: int) -> str:
    size, unit = float(count), 0
    while size >= 1000 and unit < len(_UNITS) - 1:
        size, unit = size / 1000, unit + 1
    return f"{size:.3g} {_UNITS[unit]}"
