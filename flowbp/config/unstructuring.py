"""A typed configuration back into plain data, with every default written out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import attrs
from cattrs import Converter
from cattrs.gen import make_dict_unstructure_fn

from .converter import REFUSALS, Scalar, strict_converter
from .parameters import NO_DEFAULT, Parameter, is_attrs_class, parameters, type_of
from .registry import Component, Registry, component_type
from .tree import plain, tree_of


def unstructure(
    configuration: Any,
    *,
    registries: Iterable[Registry] = (),
    scalars: Iterable[Scalar] = (),
    defaults: bool = True,
) -> Any:
    """Mappings, lists and scalars from which `structure` makes an equal configuration.

    Keys stand in the order of the fields. Defaults are written out, so that the text keeps its
    meaning when a later version changes one; those that YAML cannot hold are not. Without
    `defaults` those of components that are yet to be built are left out, for a summary.
    """
    converter = strict_converter(scalars)
    register_writing(converter, registries, defaults=defaults)
    return plain(tree_of(converter.unstructure(configuration), ""))


def register_writing(
    converter: Converter, registries: Iterable[Registry], *, defaults: bool = True
) -> None:
    """Teach a converter to write what `structure` makes."""
    converter.register_unstructure_hook(Path, str)
    converter.register_unstructure_hook_factory(is_attrs_class)(
        lambda cls: make_dict_unstructure_fn(cls, converter, _cattrs_use_alias=True)
    )
    converter.register_unstructure_hook_func(
        lambda kind: component_type(kind) is not None,
        lambda component: _component(component, converter, defaults),
    )
    for registry in registries:
        _register(converter, registry)


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


def defaults_of(
    converter: Converter, target: Callable[..., Any], others: Collection[str]
) -> dict[str, Any]:
    """The defaults that have a form in YAML, as they would be read from there."""
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
