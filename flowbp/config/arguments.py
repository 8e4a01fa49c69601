"""Attrs classes and callables: a mapping's keys become their keyword arguments."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import attrs
from cattrs import Converter
from cattrs.errors import AttributeValidationNote, ClassValidationError

from .converter import REFUSALS, meant
from .parameters import is_attrs_class, parameters, type_of
from .problems import Absent, Rejected, UnknownKey, listed, nearest
from .tree import PartialMapping

T = TypeVar("T")


class UnknownValueError(Exception):
    """A value was asked for whose problem is reported already."""


class Partial:
    """What is sound of an object that could not be built; all else is an `UnknownValueError`."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.__dict__.update(values)

    def __getattr__(self, name: str) -> Any:
        raise UnknownValueError(name)


def answers(check: Callable[[Any], Iterator[T]], configuration: Any) -> Iterator[T]:
    """What a check finds, until it asks a `Partial` for a value that is not known."""
    try:
        yield from check(configuration)
    except UnknownValueError:
        return


class IncompleteError(ClassValidationError):
    """Arguments of which some are refused; `partial` where the others are of use alone."""

    # Attributes of an attrs class that are not refused.
    sound: Mapping[str, Any]
    partial: Partial | None = None


def partial_of(error: BaseException) -> Partial | None:
    """What is sound of that which was refused; None where it has no use alone."""
    return error.partial if isinstance(error, IncompleteError) else None


def arguments_of(
    converter: Converter,
    target: Callable[..., Any],
    given: Mapping[str, Any],
    offered: frozenset[str] = frozenset(),
) -> dict[str, Any]:
    """Structure a mapping into the keyword arguments of a target, finding every mistake in it."""
    errors: list[Exception] = []
    parts: dict[str, Partial] = {}
    arguments: dict[str, Any] = {}
    known = {parameter.name: parameter for parameter in parameters(target)}
    rest = next((parameter for parameter in known.values() if parameter.any_name), None)
    settable = {name: p for name, p in known.items() if name not in offered and not p.any_name}
    for name, value in given.items():
        parameter = settable.get(name) or rest
        try:
            if name in offered and name in known:
                raise Rejected("is supplied by the run and cannot be configured; remove it")
            if parameter is None:
                raise _unknown(name, settable)
            kind = type_of(target, parameter)
            arguments[name] = converter.structure(meant(value, kind), kind)
        except REFUSALS as error:
            errors.append(_at(name, error))
            part = partial_of(error)
            if part is not None:
                parts[name] = part
    for name, parameter in settable.items():
        if parameter.required and name not in given:
            errors.append(_at(name, Absent("is missing; it has no default")))
    if isinstance(given, PartialMapping):
        errors.append(Absent("keys may be missing"))
    sound: dict[str, Any] = {}
    if is_attrs_class(target):
        sound, refused = _validated(target, arguments, given)
        errors.extend(_at(name, error) for name, error in refused)
    if errors:
        refusal = IncompleteError(f"While structuring {target!r}", errors, _class(target))
        refusal.sound = {**sound, **parts}
        raise refusal
    return arguments


def built(target: Any, arguments: Mapping[str, Any]) -> Any:
    """Call an attrs class, so that what only its constructor checks is checked too."""
    try:
        return target(**arguments)
    except REFUSALS as error:
        named = re.match(r"`(\w+)`", message_of(error))
        if named and any(parameter.name == named[1] for parameter in parameters(target)):
            _at(named[1], error)
        raise ClassValidationError(f"While building {target!r}", [error], target) from error


def _unknown(name: str, settable: Mapping[str, Any]) -> Rejected:
    if not settable:
        return UnknownKey("is an unknown key, there are none here; remove it")
    return UnknownKey(f"is an unknown key. {nearest(name, settable)}Valid keys: {listed(settable)}")


def _at(name: str, error: Exception) -> Exception:
    error.add_note(AttributeValidationNote(f"at {name}", name, None))
    return error


def message_of(error: BaseException) -> str:
    """The text of a refusal; attrs' own validators add objects to theirs, which are left out."""
    return str(error.args[0]) if error.args else type(error).__name__


def _class(target: Callable[..., Any]) -> type:
    return target if isinstance(target, type) else type(target)


def _validated(
    cls: Any, arguments: Mapping[str, Any], given: Mapping[str, Any]
) -> tuple[dict[str, Any], list[tuple[str, Exception]]]:
    """The attributes that are sound, and what is refused of others."""
    blank = object.__new__(cls)
    refused = [*_filled(blank, arguments, given), *_refused_fields(blank)]
    names = {name for name, _ in refused}
    there = [field for field in attrs.fields(cls) if hasattr(blank, field.name)]
    if isinstance(given, PartialMapping):
        # A default may be none.
        there = [field for field in there if field.alias in given]
    return {f.name: getattr(blank, f.name) for f in there if f.alias not in names}, refused


def _refused_fields(blank: Any) -> Iterator[tuple[str, Exception]]:
    """What each field's own validator says, on an object that may still lack other fields."""
    cls = type(blank)
    complete = all(hasattr(blank, field.name) for field in attrs.fields(cls))
    for field in attrs.fields(cls):
        if field.validator is None or not hasattr(blank, field.name):
            continue
        try:
            field.validator(blank, field, getattr(blank, field.name))
        except REFUSALS as error:
            yield field.alias, error
        except AttributeError:
            # It compares with a field that is itself wrong, and can judge once that is mended.
            if complete:
                raise


def _filled(
    blank: Any, arguments: Mapping[str, Any], given: Mapping[str, Any]
) -> Iterator[tuple[str, Exception]]:
    for field in attrs.fields(type(blank)):
        default = field.default
        if field.alias in arguments:
            value = arguments[field.alias]
        elif (
            field.alias in given
            or default is attrs.NOTHING
            or getattr(default, "takes_self", False)
        ):
            continue
        else:
            value = default.factory() if hasattr(default, "takes_self") else default
        try:
            object.__setattr__(blank, field.name, _converted(blank, field, value))
        except REFUSALS as error:
            yield field.alias, error


def _converted(blank: Any, field: Any, value: Any) -> Any:
    if field.converter is None:
        return value
    # An attrs.Converter, which older versions of attrs do not have, may ask for the object too.
    whole = hasattr(field.converter, "takes_self")
    return field.converter(value, blank, field) if whole else field.converter(value)
