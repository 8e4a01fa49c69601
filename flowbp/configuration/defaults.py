"""The defaults of a component's target, read from its fields or signature without calling it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from cattrs import Converter

from .parameters import NO_DEFAULT, Parameter, parameters, type_of
from .rules import REFUSALS


def defaults_of(
    converter: Converter, target: Callable[..., Any], others: Collection[str]
) -> dict[str, Any]:
    """The defaults that have a form in YAML, as they would be read from there.

    One of another form is left out: nothing could be written from which it would be read again.

    Args:
        converter: that reads and writes.
        target: an attrs class or another callable; it is not called.
        others: keywords that are given or that someone else will supply.

    Returns:
        Values by keyword, in the order of the target's.
    """
    found = {}
    for parameter in parameters(target):
        default = NO_DEFAULT if parameter.name in others else parameter.default_value()
        if default is NO_DEFAULT:
            continue
        try:
            found[parameter.name] = _as_read(converter, target, parameter, default)
        except _Formless:
            continue
    return found


class _Formless(Exception):
    """A value that has no form in YAML."""


def _as_read(
    converter: Converter, target: Callable[..., Any], parameter: Parameter, default: Any
) -> Any:
    try:
        kind = type_of(target, parameter)
        written = converter.unstructure(default, kind)
        read = converter.structure(written, kind) if _is_plain(written) else NO_DEFAULT
        # A component is read with the defaults of its own target, which the default may lack.
        alike = read == default or getattr(read, "target", None) == getattr(default, "target", read)
    # Values of others' types may refuse to be written or compared in any way.
    except (*REFUSALS, AttributeError, RuntimeError, KeyError) as error:
        raise _Formless from error
    if read is NO_DEFAULT or not bool(alike):
        raise _Formless
    return read


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _is_plain(each) for key, each in value.items())
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)
