"""How a value from YAML becomes a value of an annotated type: strictly, nothing is converted.

`true` is no integer, ``"3"`` is no number, one text is no list of letters. There are two
exceptions: an integer where a number is asked for, and what was typed on the command line where a
text or path is, which is then just that.
"""

from __future__ import annotations

import os
import re
import types
from collections.abc import Callable, Iterable, Iterator, MutableSequence
from contextlib import suppress
from enum import Enum
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import attrs
from cattrs import Converter
from cattrs.cols import (
    is_any_set,
    is_mapping,
    is_sequence,
    list_structure_factory,
    mapping_structure_factory,
)
from cattrs.errors import (
    BaseValidationError,
    IterableValidationError,
    IterableValidationNote,
    StructureHandlerNotFoundError,
)

from .partial import PartialItems
from .problems import Absent, Rejected, must_be
from .tree import NamedMapping, PartialMapping, Typed
from .yaml import unquoted, unwritable

Read = Callable[[Any, Any], Any]

PLACE = os.PathLike[str]
"""In a union with `str`: a path, or the name of something elsewhere."""

# What takes the text that was typed.
_TEXTS = {str, Path, PLACE}
# Bytes of the name of a file or a folder, at most.
_NAME = 255
UNIONS = (Union, types.UnionType)

REFUSALS = (ValueError, TypeError, BaseValidationError, StructureHandlerNotFoundError)
"""What a rule, a validator or a constructor raises for a wrong value; all else is a bug."""


@attrs.frozen
class Scalar:
    """A type outside this package's knowledge that is written as one scalar in YAML."""

    type: Any
    read: Callable[[Any], Any] = attrs.field(kw_only=True)
    write: Callable[[Any], Any] = attrs.field(kw_only=True)


def strict_converter(scalars: Iterable[Scalar]) -> Converter:
    """A cattrs converter with the strict rules for scalars, choices, unions and containers."""
    converter = Converter(detailed_validation=True)
    for kind, read in _SCALARS.items():
        converter.register_structure_hook(kind, read)
    factories: tuple[tuple[Callable[[Any], bool], Callable[[Any, Converter], Read]], ...] = (
        (_is_choice, _choice_rule),
        (lambda kind: get_origin(kind) in UNIONS, _union_rule),
        (is_sequence, _list_rule),
        (_is_fixed_tuple, _tuple_rule),
        (is_mapping, _mapping_rule),
        (is_any_set, _set_rule),
    )
    for applies, factory in factories:
        converter.register_structure_hook_factory(applies)(factory)
    for scalar in scalars:
        _register(converter, scalar)
    return converter


def _register(converter: Converter, scalar: Scalar) -> None:
    def applies(kind: Any) -> bool:
        return bool(kind == scalar.type)

    converter.register_structure_hook_func(applies, lambda value, _: scalar.read(value))
    converter.register_unstructure_hook_func(applies, scalar.write)


def typed_as(value: Any, kind: Any) -> Any:
    """What a value means for a field: of a typed one its text, or what YAML reads."""
    if not isinstance(value, Typed):
        return value
    kinds = set(get_args(kind)) if get_origin(kind) in UNIONS else {kind}
    if kinds - {type(None)} <= _TEXTS and not (value.text == "null" and value.value is None):
        return value.text
    if value.refusal:
        raise Rejected(value.refusal)
    return value.value


def names_place(kind: Any) -> bool:
    """Whether a type is a path, or a path among texts, where there is one."""
    kinds = set(get_args(kind)) if get_origin(kind) in UNIONS else {kind}
    return kinds - {type(None)} <= _TEXTS and bool(kinds & {Path, PLACE})


def is_section(kind: Any) -> bool:
    """Whether a type is written as a mapping, of its own keys or of a component's, and no null."""
    kind = get_origin(kind) or kind
    if kind in UNIONS:
        return False
    return attrs.has(kind) or is_mapping(kind) or bool(getattr(kind, "_is_protocol", False))


def _text(value: Any, _: Any) -> str:
    """A text, of characters that a file and a terminal may get."""
    if isinstance(value, str):
        if unwritable(value):
            raise Rejected(unwritable(value))
        return value
    scalar = value is not None and not isinstance(value, list | dict)
    raise must_be("text", value, "put it in quotes" if scalar else "")


def _path(value: Any, kind: Any) -> Path:
    """A path that is not empty, with ``~`` expanded."""
    if isinstance(value, str) and value.strip():
        _refuse_long_names(value)
        return Path(_at_home(_text(value, kind)))
    scalar = isinstance(value, int | float)
    raise must_be("a path", value, "put it in quotes" if scalar else "")


def _place(value: Any, kind: Any) -> str:
    """A path, likewise, or the name of something elsewhere, such as a hub id."""
    if isinstance(value, str) and value.strip():
        # Where a file can be named, a sentence can stand in its place.
        if not re.search(r"\s", value):
            _refuse_long_names(value)
        return _at_home(_text(value, kind))
    raise must_be("a path or the name of a place such as a hub id", value)


def _refuse_long_names(text: str) -> None:
    for name in text.split(os.sep):
        size = len(os.fsencode(name)) if not unwritable(name) else 0
        if size > _NAME:
            raise Rejected(
                f"holds the name {name[:8]}… of {size:,} bytes, and file systems take at most "
                f"{_NAME}; shorten it"
            )


def _at_home(text: str) -> str:
    try:
        return os.fspath(Path(text).expanduser()) if text.startswith("~") else text
    except RuntimeError as error:
        raise must_be("a path", text, "there is no such user; write ./ before it") from error


_WORDS: dict[Any, str] = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "text",
    Path: "a path",
}


def _bool(value: Any, _: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise must_be(_WORDS[bool], value)


def _int(value: Any, _: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        if -(2**63) <= value < 2**63:
            return value
        raise must_be("an integer of at most 64 bits", value)
    if isinstance(value, float) and value.is_integer():
        raise must_be(_WORDS[int], value, f"write {int(value)}")
    raise must_be(_WORDS[int], value, _quotes(value, int))


def _float(value: Any, _: Any) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    raise must_be(_WORDS[float], value, _quotes(value, (int, float)))


def _quotes(value: Any, kinds: type | tuple[type, ...]) -> str:
    if not isinstance(value, str):
        return ""
    number = unquoted(value)
    numeric = isinstance(number, kinds) and not isinstance(number, bool)
    return "remove the quotes" if numeric else ""


_SCALARS: dict[Any, Read] = {bool: _bool, int: _int, float: _float, str: _text, Path: _path}


def _is_choice(kind: Any) -> bool:
    return get_origin(kind) is Literal or (isinstance(kind, type) and issubclass(kind, Enum))


def _choice_rule(kind: Any, _: Converter) -> Read:
    members = get_args(kind) or tuple(kind)
    values = [member.value if isinstance(member, Enum) else member for member in members]

    def read(value: Any, _: Any) -> Any:
        for member, known in zip(members, values, strict=True):
            # Types too, because 1 == True.
            if type(value) is type(known) and value == known:
                return member
        choices = " or ".join(repr(known) for known in values)
        raise must_be(choices, value)

    return read


def _union_rule(kind: Any, converter: Converter) -> Read:
    members = tuple(member for member in get_args(kind) if member is not type(None))
    if len(members) < len(get_args(kind)):
        # One annotation again, which may be a registry's type even where it is itself a union.
        rest: Any = Union[members]  # noqa: UP007
        return lambda value, _: None if value is None else converter.structure(value, rest)

    if PLACE in members and set(members) <= _TEXTS:
        return _place

    def read(value: Any, _: Any) -> Any:
        for member in members:
            try:
                return converter.structure(value, member)
            except REFUSALS:
                continue
        raise must_be(" or ".join(_word(member) for member in members), value)

    return read


def _word(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return " or ".join(repr(choice) for choice in get_args(kind))
    if kind in _WORDS:
        return _WORDS[kind]
    return kind.__name__ if isinstance(kind, type) else str(kind)


def _guarded(what: str, expected: type, read: Read) -> Read:
    def guarded(value: Any, kind: Any) -> Any:
        if not isinstance(value, expected) or isinstance(value, NamedMapping):
            raise must_be(what, value)
        return read(value, kind)

    return guarded


def _list_rule(kind: Any, converter: Converter) -> Read:
    items = list_structure_factory(kind, converter)
    collect = list if (get_origin(kind) or kind) in (list, MutableSequence) else tuple
    return _guarded("a list", list, lambda value, _: collect(items(value, kind)))


def _is_fixed_tuple(kind: Any) -> bool:
    return get_origin(kind) is tuple and get_args(kind)[-1:] != (Ellipsis,)


def _tuple_rule(kind: Any, converter: Converter) -> Read:
    elements = get_args(kind)
    what = f"a list of {len(elements)} items"

    def read(value: list[Any], _: Any) -> tuple[Any, ...]:
        if len(value) != len(elements):
            raise must_be(what, value)
        items, errors = [], []
        for at, (item, element) in enumerate(zip(value, elements, strict=True)):
            try:
                items.append(converter.structure(item, element))
            except REFUSALS as error:
                error.add_note(IterableValidationNote(f"at index {at}", at, element))
                errors.append(error)
        if errors:
            raise IterableValidationError(f"While structuring {kind!r}", errors, tuple)
        return tuple(items)

    return _guarded(what, list, read)


def _mapping_rule(kind: Any, converter: Converter) -> Read:
    read, of = mapping_structure_factory(kind, converter), get_args(kind)[-1:]

    def sound(items: dict[str, Any]) -> Iterator[tuple[str, Any]]:
        for key, each in items.items():
            with suppress(*REFUSALS):
                yield key, converter.structure(each, *of)

    def read_items(value: dict[str, Any], kind: Any) -> Any:
        items = {key: typed_as(each, *of) for key, each in value.items()} if of else value
        try:
            found = read(items, kind)
            if isinstance(value, PartialMapping):
                raise Absent("keys may be missing")
        except (Absent, IterableValidationError) as refusal:
            if of:
                refusal.partial = PartialItems(dict(sound(items)))  # type: ignore[union-attr]
            raise
        return found

    return _guarded("a mapping", dict, read_items)


def _set_rule(kind: Any, _: Converter) -> Read:
    raise Rejected(f"is annotated {kind}, and YAML has no sets; annotate it as a tuple")
