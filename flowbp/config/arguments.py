"""What attrs classes and callables take, and a mapping's keys as their keyword arguments."""

from __future__ import annotations

import inspect
import keyword
import re
import sys
import types
import typing
from collections.abc import Callable, Mapping
from inspect import Parameter
from typing import Any, TypeVar

import attrs
from cattrs import Converter
from cattrs.errors import AttributeValidationNote, ClassValidationError

from .converter import REFUSALS, is_section, typed_as
from .partial import Partial, partial_of
from .problems import Absent, Rejected, UnknownKey, listed, nearest
from .tree import PartialMapping, Typed

T = TypeVar("T")


class IncompleteError(ClassValidationError):
    """Arguments of which some are refused; `partial` where the others are of use alone."""

    # Attributes of an attrs class that are not refused.
    sound: Mapping[str, Any]
    partial: Partial | None = None


def is_attrs_class(target: Any) -> bool:
    """Whether a target is a class made by attrs."""
    return isinstance(target, type) and attrs.has(target)


def key_of(field: attrs.Attribute[Any]) -> str:
    """The key of an attribute, see `key_named`."""
    return key_named(str(field.alias))


def key_named(argument: str) -> str:
    """The key of a keyword: itself, but `global` for `global_`, a word of Python."""
    word = argument.removesuffix("_")
    return word if keyword.iskeyword(word) else argument


def by_keyword(target: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments by key as keywords, see `key_of`."""
    fields = attrs.fields(target) if is_attrs_class(target) else ()
    keywords = {key_of(field): field.alias for field in fields}
    return {keywords.get(key, key): value for key, value in arguments.items()}


def parameters(target: Any) -> dict[str, Parameter]:
    """What a target takes by key, in its order; a default may be one of attrs' factories.

    One of the kind `VAR_KEYWORD` stands for every other keyword.
    """
    if not is_attrs_class(target):
        found = inspect.signature(target).parameters.items()
        unnamed = (Parameter.POSITIONAL_ONLY, Parameter.VAR_POSITIONAL)
        return {name: parameter for name, parameter in found if parameter.kind not in unnamed}
    return {
        key_of(field): Parameter(
            field.alias,
            Parameter.KEYWORD_ONLY,
            default=Parameter.empty if field.default is attrs.NOTHING else field.default,
            annotation=Parameter.empty if field.type is None else field.type,
        )
        for field in attrs.fields(target)
        if field.init
    }


def required(target: Any) -> tuple[str, ...]:
    """The keywords without which a target cannot be called."""
    return tuple(
        name
        for name, parameter in parameters(target).items()
        if parameter.default is Parameter.empty and parameter.kind is not Parameter.VAR_KEYWORD
    )


def type_of(target: Any, parameter: Parameter) -> Any:
    """The type of a parameter, with annotations in text form evaluated where they were written."""
    annotation = parameter.annotation
    if annotation is Parameter.empty or annotation is None:
        return Any
    if not isinstance(annotation, str):
        return annotation
    holder = type("Holder", (), {"__annotations__": {"value": annotation}})
    try:
        return typing.get_type_hints(holder, _namespace(target, parameter.name))["value"]
    except NameError as error:
        raise Rejected(
            f"is annotated `{annotation}`, which cannot be evaluated ({error}); "
            "import its names at run time, not under TYPE_CHECKING"
        ) from error


_PLAIN = (bool, int, float, str, type(None))


def inferred_type(target: Any, parameter: Parameter) -> Any:
    """The type of a parameter of a library's: what YAML can hold of its annotation.

    Without an annotation it is that of the default; the integer 0 may stand for any number.
    """
    found = type_of(target, parameter)
    if found is not Any:
        return _writable(found)
    default = parameter.default
    return _kind_of(default)


def _kind_of(default: Any) -> Any:
    if isinstance(default, tuple):
        kinds: Any = tuple(map(_kind_of, default))
        return tuple.__class_getitem__(kinds) if default else Any
    if isinstance(default, bool | str):
        return type(default)
    if isinstance(default, int):
        return int | float
    return float if isinstance(default, float) else Any


def _writable(kind: Any) -> Any:
    """A type without the members of unions that YAML cannot hold, such as tensors; or `Any`."""
    origin, members = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        kept = [each for each in map(_writable, members) if each is not Any]
        return typing.Union[tuple(kept)] if kept else Any  # noqa: UP007
    if origin in (tuple, list):
        return origin[tuple(each if each is ... else _writable(each) for each in members)]
    return kind if kind in _PLAIN or origin is typing.Literal else Any


def _namespace(target: Any, alias: str) -> dict[str, Any]:
    if is_attrs_class(target):
        name = next(field.name for field in attrs.fields(target) if field.alias == alias)
        owner = next(base for base in target.__mro__ if name in inspect.get_annotations(base))
        return vars(sys.modules[owner.__module__])
    called = target.__init__ if isinstance(target, type) else target  # type: ignore[misc]
    return getattr(inspect.unwrap(getattr(called, "__func__", called)), "__globals__", {})


def arguments_of(
    converter: Converter,
    target: Callable[..., Any],
    given: Mapping[str, Any],
    offered: frozenset[str] = frozenset(),
    *,
    library: bool = False,
) -> dict[str, Any]:
    """Structure a mapping into the keyword arguments of a target, finding every mistake in it.

    Of a `library`'s target types are inferred, see `inferred_type`, and what its signature does not
    name is unknown.
    """
    errors: list[Exception] = []
    parts: dict[str, Any] = {}
    arguments: dict[str, Any] = {}
    known = parameters(target)
    rest = next((p for p in known.values() if p.kind is Parameter.VAR_KEYWORD), None)
    settable = {name: p for name, p in known.items() if name not in offered and p is not rest}
    cleared = set()
    if library:
        rest = None
    for name, value in given.items():
        parameter = settable.get(name) or rest
        try:
            if name in offered and name in known:
                raise Rejected("is supplied by the run and cannot be configured; remove it")
            if parameter is None:
                raise _unknown(name, settable)
            kind = (inferred_type if library else type_of)(target, parameter)
            if _is_cleared(parameter, kind, value):
                cleared.add(name)
                continue
            arguments[name] = converter.structure(typed_as(value, kind), kind)
        except REFUSALS as error:
            errors.append(at(name, error))
            part = partial_of(error)
            if part is not None:
                parts[name] = part
    absent = (name for name in required(target) if name in settable and name not in given)
    errors += [at(name, Absent("is missing; it has no default")) for name in absent]
    if isinstance(given, PartialMapping):
        errors.append(Absent("keys may be missing"))
    sound: dict[str, Any] = arguments if library else {}
    if is_attrs_class(target):
        kept = {name: each for name, each in given.items() if name not in cleared}
        left = PartialMapping(kept) if isinstance(given, PartialMapping) else kept
        sound, refused = _validated(target, arguments, left)
        errors += refused
    if errors:
        cls = target if isinstance(target, type) else type(target)
        refusal = IncompleteError(f"While structuring {target!r}", errors, cls)
        refusal.sound = {**sound, **parts}
        raise refusal
    return arguments


def _is_cleared(parameter: Parameter, kind: Any, value: Any) -> bool:
    """Whether null clears a section, which then is its default as if it had not been written."""
    null = value is None or (isinstance(value, Typed) and value.value is None)
    return null and parameter.default is not Parameter.empty and is_section(kind)


def construct(target: Any, arguments: Mapping[str, Any]) -> Any:
    """Call an attrs class, so that what only its constructor checks is checked too."""
    try:
        return target(**by_keyword(target, arguments))
    except REFUSALS as error:
        named = re.match(r"`(\w+)`", message_of(error))
        if named and named[1] in parameters(target):
            at(named[1], error)
        raise ClassValidationError(f"While building {target!r}", [error], target) from error


def at(name: str, error: Exception) -> Exception:
    """An error with a note of the key that it is at."""
    error.add_note(AttributeValidationNote(f"at {name}", name, None))
    return error


def message_of(error: BaseException) -> str:
    """The text of a refusal; attrs' own validators add objects to theirs, which are left out."""
    return str(error.args[0]) if error.args else type(error).__name__


def _unknown(name: str, settable: Mapping[str, Any]) -> Rejected:
    if not settable:
        return UnknownKey("is an unknown key, there are none here; remove it")
    return UnknownKey(f"is an unknown key. {nearest(name, settable)}Valid keys: {listed(settable)}")


def _validated(
    cls: Any, arguments: Mapping[str, Any], given: Mapping[str, Any]
) -> tuple[dict[str, Any], list[Exception]]:
    """The attributes that are sound, and what is refused of others.

    Each field's own validator is asked, on an object that may still lack other fields.
    """
    blank, refused = object.__new__(cls), dict[str, list[Exception]]()
    fields = attrs.fields(cls)
    for field in fields:
        try:
            value = _value(blank, field, arguments, given)
            if value is not attrs.NOTHING:
                object.__setattr__(blank, field.name, value)
        except REFUSALS as error:
            refused.setdefault(key_of(field), []).append(error)
    there = [field for field in fields if hasattr(blank, field.name)]
    for field in there:
        try:
            if field.validator is not None:
                field.validator(blank, field, getattr(blank, field.name))
        except REFUSALS as error:
            refused.setdefault(key_of(field), []).append(error)
        except AttributeError:
            # It compares with a field that is itself wrong, and can judge once that is mended.
            if len(there) == len(fields):
                raise
    # A default of what may be missing may be none.
    known = given if isinstance(given, PartialMapping) else {key_of(field) for field in fields}
    sound = {
        field.name: getattr(blank, field.name)
        for field in there
        if key_of(field) in known and key_of(field) not in refused
    }
    return sound, [at(name, error) for name, each in refused.items() for error in each]


def _value(blank: Any, field: Any, arguments: Mapping[str, Any], given: Mapping[str, Any]) -> Any:
    """What a field would hold; `attrs.NOTHING` if that is not known."""
    default, converter = field.default, field.converter
    key = key_of(field)
    if key in arguments:
        value = arguments[key]
    elif key in given or default is attrs.NOTHING or getattr(default, "takes_self", False):
        return attrs.NOTHING
    else:
        value = default.factory() if hasattr(default, "takes_self") else default
    if converter is None:
        return value
    # An attrs.Converter, which older versions of attrs do not have, may ask for the object too.
    whole = hasattr(converter, "takes_self")
    return converter(value, blank, field) if whole else converter(value)
