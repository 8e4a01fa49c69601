"""What a component reads when it is built, so that it can be checked before anything is loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import attrs

from flowbp.extras import require
from flowbp.hub import address, cached_file
from flowbp.rewards.model_files import Place, check_file, check_tokenizer, file_of, on_disk
from flowbp.rewards.weight_files import PublishedFile

_Target = TypeVar("_Target", bound=Callable[..., Any])
_UNITS = ("bytes", "kB", "MB", "GB")


@attrs.frozen
class Reading:
    """From where something is read.

    Args:
        place: a file, a folder or a hub id.
        files: of a folder or repository, by any of which it is known to be there.
        alone: whether the first of these is all that is read.
        size: of that in bytes, where it is known.
    """

    place: Place
    files: tuple[str, ...] = ("config.json",)
    alone: bool = attrs.field(default=False, kw_only=True)
    size: int | None = attrs.field(default=None, kw_only=True)


@attrs.frozen(kw_only=True)
class Need:
    """One thing that a component reads when it is built.

    A class or function that a configuration can name says what it reads by an attribute `needs`: a
    callable that takes some of its arguments, by their names, and gives these.

    Args:
        check: raises what is wrong with it, and loads no weights.
        tower: the place by which `Towers` shares the model in it; None where there is none.
        reading: from where it is read, to be listed; None where nothing is.

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
    reading: Reading | None = None


def needing(needs: Callable[..., Iterable[Need]]) -> Callable[[_Target], _Target]:
    """A decorator: say what a function reads, as a class does by its own `needs`.

    Args:
        needs: takes some of the function's arguments.

    Example:
        >>> @needing(lambda: [package("math")])
        ... def build():
        ...     return None
        >>> len(build.needs())
        1
    """

    def mark(target: _Target) -> _Target:
        target.needs = needs  # type: ignore[attr-defined]
        return target

    return mark


def package(module: str, *, extra: str = "models") -> Need:
    """A package that must be installed.

    Args:
        module: importable name.
        extra: of flowbp that installs it.

    Returns:
        The need, whose check raises ModuleNotFoundError with the command to run.

    Example:
        >>> package("math").check().sqrt(4.0)
        2.0
    """
    return Need(check=partial(require, module, extra=extra))


def published_file(source: Place, published: PublishedFile, *, verify: bool) -> Need:
    """The single file of a published model, given by itself, its folder or its hub id."""
    name = published.name
    return Need(
        check=partial(check_file, source, name, published=published if verify else None),
        tower=file_of(source, name) or source,
        reading=Reading(source, (name,), alone=True, size=published.size),
    )


def tokenizer(place: Place, *, files: Sequence[str], argument: str = "tokenizer") -> Need:
    """A tokenizer; see `check_tokenizer`."""
    return Need(
        check=partial(check_tokenizer, place, files=files, argument=argument),
        reading=Reading(place, tuple(files)),
    )


def location(reading: Reading) -> str:
    """A path or an address, and in brackets whether it is here and how large it is."""
    path = on_disk(reading.place)
    if path is not None:
        inside = [path / name for name in reading.files if (path / name).is_file()]
        chosen = inside[0] if reading.alone and inside else path
        return f"{chosen} (here, {_size(_bytes(chosen))})"
    hub_id = str(reading.place)
    cached = [found for name in reading.files if (found := cached_file(hub_id, name)) is not None]
    name = reading.files[0] if reading.alone else None
    if cached:
        known = _size(_bytes(cached[0] if reading.alone else cached[0].parent))
        return f"{address(hub_id, name)} (here, in the cache, {known})"
    known = "" if reading.size is None else f", {_size(reading.size)}"
    return f"{address(hub_id, name)} (not here{known})"


def _bytes(place: Path) -> int:
    files = [place] if place.is_file() else place.rglob("*")
    return sum(path.stat().st_size for path in files if path.is_file())


def _size(count: int) -> str:
    size, unit = float(count), 0
    while size >= 1000 and unit < len(_UNITS) - 1:
        size, unit = size / 1000, unit + 1
    return f"{size:.3g} {_UNITS[unit]}"
