"""What is sound of a configuration that could not be read as a whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

T = TypeVar("T")


class UnknownValueError(Exception):
    """A value was asked for whose problem is reported already."""


class Partial:
    """What is sound of an object that could not be built; all else is an `UnknownValueError`."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.__dict__.update(values)

    def __getattr__(self, name: str) -> Any:
        raise UnknownValueError(name)


class PartialItems(Mapping[Any, Any]):
    """The sound items of a mapping of which others were refused; asked for more, it raises."""

    def __init__(self, items: Mapping[Any, Any]) -> None:
        self._items = items

    def __getitem__(self, key: Any) -> Any:
        if key not in self._items:
            raise UnknownValueError(key)
        return self._items[key]

    def __iter__(self) -> Iterator[Any]:
        # A check goes through these before it learns that there are others.
        yield from self._items
        raise UnknownValueError("the others")

    def __len__(self) -> int:
        raise UnknownValueError("their number")


def run_check(check: Callable[[Any], Iterator[T]], configuration: Any) -> Iterator[T]:
    """What a check finds, until it asks a `Partial` for a value that is not known."""
    try:
        yield from check(configuration)
    except UnknownValueError:
        return


def partial_of(error: BaseException) -> Any:
    """What is sound of that which was refused; None where it has no use alone."""
    return getattr(error, "partial", None)
