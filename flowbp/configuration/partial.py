"""A configuration of which not every value is sound, for the checks that need only some of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

T = TypeVar("T")


class UnknownValueError(Exception):
    """A value was asked for whose problem is reported already."""


class Partial:
    """What is sound of an attrs class's object that could not be built.

    Args:
        values: by the names of its attributes. Whoever asks for any other, for a property or a
            method, gets an `UnknownValueError`.

    Example:
        >>> Partial({"steps": 3}).steps
        3
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.__dict__.update(values)

    def __getattr__(self, name: str) -> Any:
        raise UnknownValueError(name)


def answers(check: Callable[[Any], Iterator[T]], configuration: Any) -> Iterator[T]:
    """What a check finds, as far as what it asks for is known.

    Args:
        check: of a configuration.
        configuration: whole, or a `Partial`.

    Yields:
        What it yields.

    Example:
        >>> def check(found):
        ...     yield found.steps
        ...     yield found.rate
        >>> list(answers(check, Partial({"steps": 3})))
        [3]
    """
    try:
        yield from check(configuration)
    except UnknownValueError:
        return
