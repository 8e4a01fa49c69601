"""What a class or function takes, read from its fields or signature without calling it."""

from __future__ import annotations

import inspect
import sys
import typing
from typing import Any

import attrs

from .problems import Rejected

NO_DEFAULT: Any = object()
"""Stands for a default that there is not, or that is only known when the target is called."""


@attrs.frozen
class Parameter:
    """One keyword that a target takes.

    Args:
        name: the keyword.
        annotation: its type, or the annotation's text if it was not evaluated; see `type_of`.
        required: whether there is no default.
        any_name: whether it stands for every other keyword, as ``**options`` does.
        default: the value, or what attrs makes it with; see `default_value`.
    """

    name: str
    annotation: Any
    required: bool
    any_name: bool = False
    default: Any = attrs.field(default=NO_DEFAULT, eq=False, repr=False)

    def default_value(self) -> Any:
        """The default, or `NO_DEFAULT`."""
        made = getattr(self.default, "takes_self", None)
        if made is None:
            return self.default
        return NO_DEFAULT if made else self.default.factory()


def parameters(target: Any) -> tuple[Parameter, ...]:
    """The keywords that a target takes, in their order."""
    if is_attrs_class(target):
        return tuple(
            Parameter(
                field.alias,
                field.type,
                field.default is attrs.NOTHING,
                default=NO_DEFAULT if field.default is attrs.NOTHING else field.default,
            )
            for field in attrs.fields(target)
            if field.init
        )
    kinds = inspect.Parameter
    return tuple(
        Parameter(
            parameter.name,
            parameter.annotation,
            required=parameter.default is kinds.empty and parameter.kind != kinds.VAR_KEYWORD,
            any_name=parameter.kind == kinds.VAR_KEYWORD,
            default=NO_DEFAULT if parameter.default is kinds.empty else parameter.default,
        )
        for parameter in inspect.signature(target).parameters.values()
        if parameter.kind not in (kinds.POSITIONAL_ONLY, kinds.VAR_POSITIONAL)
    )


def type_of(target: Any, parameter: Parameter) -> Any:
    """The type of a parameter, with annotations in text form evaluated where they were written."""
    annotation = parameter.annotation
    if annotation is None or annotation is inspect.Parameter.empty:
        return Any
    if not isinstance(annotation, str):
        return annotation
    holder = type("Holder", (), {"__annotations__": {"value": annotation}})
    try:
        return typing.get_type_hints(holder, _namespace(target, parameter))["value"]
    except NameError as error:
        raise Rejected(
            f"is annotated `{annotation}`, which cannot be evaluated ({error}); "
            "import its names at run time, not under TYPE_CHECKING"
        ) from error


def is_attrs_class(target: Any) -> bool:
    """Whether a target is a class made by attrs."""
    return isinstance(target, type) and attrs.has(target)


def _namespace(target: Any, parameter: Parameter) -> dict[str, Any]:
    if isinstance(target, type):
        if is_attrs_class(target):
            return _defining_module(target, parameter.name)
        target = target.__init__  # type: ignore[misc]
    function = inspect.unwrap(getattr(target, "__func__", target))
    return getattr(function, "__globals__", {})


def _defining_module(cls: Any, alias: str) -> dict[str, Any]:
    name = next(field.name for field in attrs.fields(cls) if field.alias == alias)
    owner = next(base for base in cls.__mro__ if name in inspect.get_annotations(base))
    return vars(sys.modules[owner.__module__])
