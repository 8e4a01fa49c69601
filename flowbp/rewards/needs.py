"""What a component reads when it is built, so that it can be checked before anything is loaded."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, TypeVar

import attrs

from flowbp.adapters.extras import require

_Target = TypeVar("_Target", bound=Callable[..., Any])


@attrs.frozen
class Reading:
    """From where something is read.

    Args:
        place: a file, a folder or a hub id.
        files: of a folder or repository, by any of which it is known to be there.
        alone: whether the first of these is all that is read.
        size: of that in bytes, where it is known.

    Example:
        >>> Reading("owner/name").files
        ('config.json',)
    """

    place: str | os.PathLike[str]
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
    tower: str | os.PathLike[str] | None = None
    reading: Reading | None = None


def needing(needs: Callable[..., Iterable[Need]]) -> Callable[[_Target], _Target]:
    """Say what a function reads, as a class does by its own `needs`.

    Args:
        needs: takes some of the function's arguments.

    Returns:
        A decorator that gives the function the attribute.

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
