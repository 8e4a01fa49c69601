"""A typed configuration back into YAML, with every default written out."""

from __future__ import annotations

import types
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Union, get_args, get_origin

import attrs
from cattrs import Converter

from .component import Component, component_type
from .parameters import Parameter, is_attrs_class, parameters, type_of
from .registry import Registry
from .rules import Scalar, strict_converter
from .scalars import dump


def describe(
    configuration: Any,
    *,
    registries: Iterable[Registry] = (),
    scalars: Iterable[Scalar] = (),
    defaults: bool = True,
) -> str:
    """YAML text from which `structure` makes an equal configuration.

    Keys stand in the order of the fields. Defaults are written out, so that the text keeps its
    meaning when a later version changes one; those that YAML cannot hold are not.

    Args:
        configuration: what `structure` returned.
        registries: the ones given to `structure`.
        scalars: the ones given to `structure`.
        defaults: of components that are yet to be built; False leaves them out, for a summary.

    Raises:
        ValueError: a component that was made in Python has no name to find it by again.

    Example:
        >>> import attrs
        >>> field = attrs.field(type=float, default=1e-5)
        >>> Optimizer = attrs.make_class("Optimizer", {"learning_rate": field}, frozen=True)
        >>> print(describe(Optimizer()), end="")
        learning_rate: 1.0e-05
    """
    converter = strict_converter(scalars)
    register_writing(converter, registries, defaults=defaults)
    return dump(converter.unstructure(configuration))


def register_writing(
    converter: Converter, registries: Iterable[Registry], *, defaults: bool = True
) -> None:
    """Teach a converter to write what `structure` makes.

    Args:
        converter: with the rules for scalars.
        registries: the kinds of components.
        defaults: whether those of components are written.
    """
    converter.register_unstructure_hook(Path, str)
    converter.register_unstructure_hook_factory(is_attrs_class)(_class_rule)
    converter.register_unstructure_hook_factory(_is_union)(_union_rule)
    converter.register_unstructure_hook_func(
        lambda kind: component_type(kind) is not None,
        lambda component: _component(component, converter, defaults),
    )
    for registry in registries:
        _register(converter, registry)


def _class_rule(cls: Any, converter: Converter) -> Any:
    fields = {field.alias: field.name for field in attrs.fields(cls) if field.init}

    def write(value: Any) -> dict[str, Any]:
        return {
            parameter.name: converter.unstructure(
                getattr(value, fields[parameter.name]), type_of(cls, parameter)
            )
            for parameter in parameters(cls)
        }

    return write


def _component(component: Component[Any], converter: Converter, defaults: bool) -> dict[str, Any]:
    if component.ready:
        return {"name": component.name}
    target, other = component.target, Parameter("", Any, required=False)
    known = {parameter.name: parameter for parameter in parameters(target)}
    values = {**component.defaults, **component.arguments} if defaults else component.arguments
    # In the target's order, and then what stands for any keyword.
    names = [*(name for name in known if name in values), *(n for n in values if n not in known)]
    written = {
        name: converter.unstructure(values[name], type_of(target, known.get(name, other)))
        for name in names
    }
    return {"name": component.name, **written}


def _register(converter: Converter, registry: Registry) -> None:
    def write(value: Any) -> dict[str, Any]:
        if not attrs.has(type(value)):
            return {"name": registry.name_of(value)}
        return {"name": registry.name_of(type(value)), **converter.unstructure(value, type(value))}

    converter.register_unstructure_hook_func(registry.describes, write)


def _is_union(kind: Any) -> bool:
    return get_origin(kind) in (Union, types.UnionType)


def _union_rule(kind: Any, converter: Converter) -> Any:
    members = tuple(member for member in get_args(kind) if member is not type(None))
    rest: Any = Union[members]  # noqa: UP007
    optional = len(members) < len(get_args(kind))

    def write(value: Any) -> Any:
        if value is None or not optional:
            return converter.unstructure(value)
        return converter.unstructure(value, rest)

    return write
