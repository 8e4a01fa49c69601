"""A tree into a typed configuration, with every problem reported at once, and back."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from inspect import Parameter
from pathlib import Path
from typing import Any, TypeVar

import attrs
from cattrs import Converter
from cattrs.errors import (
    AttributeValidationNote,
    BaseValidationError,
    ClassValidationError,
    IterableValidationError,
    IterableValidationNote,
    StructureHandlerNotFoundError,
)
from cattrs.gen import make_dict_unstructure_fn, override

from .arguments import (
    IncompleteError,
    arguments_of,
    at,
    construct,
    inferred_type,
    is_attrs_class,
    key_of,
    message_of,
    parameters,
    type_of,
)
from .converter import REFUSALS, Scalar, names_place, strict_converter, typed_as
from .partial import Partial, partial_of
from .problems import Absent, ConfigurationError, Problem, Rejected, UnknownKey, listed, shown
from .protocols import lacking
from .registry import Component, Library, Registry, component_type
from .tree import (
    UNKNOWN,
    NamedMapping,
    PartialMapping,
    Step,
    Tree,
    has_unknown,
    path_text,
    plain,
    structuring_input,
    tree_of,
    trees_along,
)

T = TypeVar("T")
_UNKNOWN_NAME = Parameter("other", Parameter.KEYWORD_ONLY)


def structure(
    cls: type[T],
    tree: Tree,
    *,
    registries: Iterable[Registry] = (),
    scalars: Iterable[Scalar] = (),
) -> T:
    """Turn a tree into an instance of an attrs class, or report all that is wrong with it.

    A field annotated with a registry's type takes a mapping with a `name`, or the name alone: an
    attrs class of that name is built from the other keys, a function of that name is the value
    itself. A field annotated ``Component[...]`` of that type takes the same, checks it against the
    target's fields or signature and leaves the building to its owner. `name` is reserved for
    this: no field of a configuration class may be called so. A section that may not be null, and
    has a default, takes null for the default.
    """
    found, problems = structured(cls, tree, registries=registries, scalars=scalars)
    if isinstance(found, Partial):
        raise ConfigurationError(problems)
    return found


def structured(
    cls: type[T],
    tree: Tree,
    *,
    registries: Iterable[Registry] = (),
    scalars: Iterable[Scalar] = (),
) -> tuple[T | Partial, tuple[Problem, ...]]:
    """The same with its problems: what is sound, if there are any or the tree is not whole.

    What could not be read of the tree, see `Tree`, is no problem again.
    """
    try:
        return yaml_converter(registries, scalars).structure(structuring_input(tree), cls), ()
    except BaseValidationError as error:
        found = (_problem(each, path, tree) for path, each in _refusals(error, ()))
        return partial_of(error) or Partial({}), tuple(each for each in found if each)


def unstructure(
    configuration: Any,
    *,
    registries: Iterable[Registry] = (),
    scalars: Iterable[Scalar] = (),
    defaults: bool = True,
    place: Callable[[str], str] = str,
) -> Any:
    """Mappings, lists and scalars from which `structure` makes an equal configuration.

    Keys stand in the order of the fields. Defaults are written out, so that the text keeps its
    meaning when a later version changes one; those that YAML cannot hold are not. Without
    `defaults` those of components that are yet to be built are left out, for a summary, and `place`
    changes whatever is annotated as a path, or as one among others.
    """
    converter = yaml_converter(registries, scalars, defaults=defaults, place=place)
    return plain(tree_of(converter.unstructure(configuration), ""))


def yaml_converter(
    registries: Iterable[Registry],
    scalars: Iterable[Scalar],
    *,
    defaults: bool = True,
    place: Callable[[str], str] = str,
) -> Converter:
    """A converter that reads and writes configuration classes and components by name."""
    converter = strict_converter(scalars)
    # Later hooks win: a registry's type may itself be a union or an attrs class.
    converter.register_structure_hook_factory(is_attrs_class)(_class_rule)
    converter.register_unstructure_hook_factory(is_attrs_class)(
        lambda cls: make_dict_unstructure_fn(cls, converter, **_renamed(cls))
    )
    # One in a field without annotation, and the others.
    converter.register_unstructure_hook(Path, lambda path: place(str(path)))
    converter.register_unstructure_hook_func(
        names_place, lambda value: None if value is None else place(str(value))
    )

    def is_component(kind: Any) -> bool:
        return component_type(kind) is not None

    converter.register_structure_hook_func(is_component, _refuse_unregistered)
    converter.register_unstructure_hook_func(
        is_component, lambda component: _written(component, converter, defaults)
    )
    for registry in registries:
        _register(converter, registry, defaults)
    return converter


def _class_rule(cls: Any, converter: Converter) -> Any:
    _refuse_reserved(cls)

    def read(value: Any, _: Any) -> Any:
        if not isinstance(value, dict) or isinstance(value, NamedMapping):
            error = Rejected(f"must be a mapping, got {shown(value)}; write its keys below it")
            raise ClassValidationError(f"While structuring {cls!r}", [error], cls)
        try:
            return construct(cls, arguments_of(converter, cls, value))
        except IncompleteError as refusal:
            refusal.partial = Partial(refusal.sound)
            raise

    return read


def _renamed(cls: Any) -> dict[str, Any]:
    return {field.name: override(rename=key_of(field)) for field in attrs.fields(cls)}


def _refuse_reserved(cls: Any) -> None:
    if "name" in parameters(cls):
        raise TypeError(f"{cls.__name__} has a field `name`, which chooses components; rename it")


def _refuse_unregistered(_: Any, kind: Any) -> Any:
    raise TypeError(f"is annotated {kind}, for which no registry was given; pass one")


def _register(converter: Converter, registry: Registry, defaults: bool) -> None:
    def is_deferred(kind: Any) -> bool:
        return registry.describes(component_type(kind))

    def component(value: Any, _: Any) -> Component[Any]:
        name, target, rest = _chosen(registry, value)
        if registry.is_ready(target):
            if rest:
                raise Rejected(
                    f"names {name!r}, which is a {registry.kind} itself and takes no keys; remove "
                    f"{listed(rest)}, or name a function that returns one"
                )
            return Component(name, target, ready=True)
        if not rest:
            _refuse_misnamed(registry, name, target)
        arguments = arguments_of(converter, target, rest, registry.offers)
        defaults = _defaults(converter, target, registry.offers.union(arguments))
        builds = _promised(registry, name)
        return Component(name, target, arguments, defaults=defaults, builds=builds)

    def instance(value: Any, _: Any) -> Any:
        name, target, rest = _chosen(registry, value)
        library = registry.library_of(target)
        if library is not None:
            return _of_library(library, converter, target, rest)
        if is_attrs_class(target):
            return fitting(name, construct(target, arguments_of(converter, target, rest)))
        if isinstance(target, type):
            raise Rejected(f"names {name!r}, a class without attrs; decorate it: @attrs.frozen")
        if rest:
            raise Rejected(
                f"names the function {name!r}, which takes no keys; remove {listed(rest)}"
            )
        return fitting(name, target)

    def fitting(name: str, found: Any) -> Any:
        lacks = lacking(found, _promised(registry, name))
        if lacks:
            raise Rejected(f"names {name!r}, which is no {registry.kind}: it {lacks}")
        return found

    def write(value: Any) -> dict[str, Any]:
        if registry.library is not None and isinstance(value, registry.library.component):
            return _written_as_it_is(registry, converter, value, defaults)
        if not attrs.has(type(value)):
            return {"name": registry.name_of(value)}
        return {"name": registry.name_of(type(value)), **converter.unstructure(value, type(value))}

    converter.register_structure_hook_func(registry.describes, instance)
    converter.register_structure_hook_func(is_deferred, component)
    converter.register_unstructure_hook_func(registry.describes, write)


def _of_library(library: Library, converter: Converter, target: Any, rest: Any) -> Any:
    errors: list[Exception] = []
    try:
        arguments = arguments_of(converter, target, rest, library.supplied, library=True)
    except IncompleteError as refusal:
        # Those that are sound by themselves may be wrong for the target.
        errors, arguments = [*refusal.exceptions], dict(refusal.sound)
    if not errors or arguments:
        faults = library.faults(target, arguments)
        errors += [at(key, Rejected(why)) if key else Rejected(why) for key, why in faults.items()]
    if errors:
        raise ClassValidationError(f"While building {target!r}", errors, Library)
    return library.component(target=target, arguments=arguments)


def _written_as_it_is(
    registry: Registry, converter: Converter, value: Any, defaults: bool
) -> dict[str, Any]:
    assert registry.library is not None
    others = registry.library.supplied.union(value.arguments)
    component = Component(
        registry.name_of(value.target),
        value.target,
        value.arguments,
        defaults=_defaults(converter, value.target, others, library=True),
    )
    return _written(component, converter, defaults, library=True)


def _promised(registry: Registry, name: str) -> Any:
    """The protocol that what others make must follow; None of what is built in."""
    ours = registry.origin_of(name) is not registry or name in registry.targets
    return None if ours else registry.builds


def _chosen(registry: Registry, value: Any) -> tuple[str, Any, dict[str, Any]]:
    alone = isinstance(value, str)
    if alone:
        value = {"name": value}
    if not isinstance(value, dict) or "name" not in value:
        kind = Absent if isinstance(value, dict) else Rejected
        raise kind(
            f"must be the name of a {registry.kind}, or a mapping with its `name`, got "
            f"{shown(value)}; names: {listed(registry.names())}"
        )
    name = typed_as(value["name"], str)
    try:
        if not isinstance(name, str):
            raise Rejected(f"must be text, got {name!r}; names: {listed(registry.names())}")
        target = registry.resolve(name)
        misfit = registry.misfit(name, target)
        if misfit:
            raise Rejected(f"names {name!r}, which {misfit}")
    except Rejected as error:
        if alone:
            raise
        raise _misnamed(registry, error) from error
    if is_attrs_class(target):
        _refuse_reserved(target)
    rest = {key: item for key, item in value.items() if key != "name"}
    return name, target, PartialMapping(rest) if isinstance(value, PartialMapping) else rest


def _refuse_misnamed(registry: Registry, name: str, target: Any) -> None:
    misnamed = registry.misnamed(target)
    if not misnamed:
        return
    wanted = " and ".join(f"`{each}`" for each in sorted(registry.called_with))
    found = " and ".join(f"`{each}`" for each in misnamed)
    error = Rejected(
        f"names {name!r}, which is called with {found}; a function is a {registry.kind} itself "
        f"only if its arguments are {wanted}, so rename them; if it makes a {registry.kind}, "
        f"{found} are keys to give"
    )
    raise _misnamed(registry, error)


def _misnamed(registry: Registry, error: Rejected) -> ClassValidationError:
    return ClassValidationError(f"No {registry.kind}", [at("name", error)], Registry)


def _written(
    component: Component[Any], converter: Converter, defaults: bool, *, library: bool = False
) -> dict[str, Any]:
    if component.ready:
        return {"name": component.name}
    target = component.target
    known = parameters(target)
    values = {**component.defaults, **component.arguments} if defaults else component.arguments
    # In the target's order, and then what stands for any keyword.
    names = [*(name for name in known if name in values), *(n for n in values if n not in known)]
    kind_of = inferred_type if library else type_of
    written = {
        name: converter.unstructure(values[name], kind_of(target, known.get(name, _UNKNOWN_NAME)))
        for name in names
    }
    return {"name": component.name, **written}


def _defaults(
    converter: Converter,
    target: Callable[..., Any],
    others: frozenset[str],
    *,
    library: bool = False,
) -> dict[str, Any]:
    """The defaults that have a form in YAML, as they would be read from there."""
    found, kind_of = {}, inferred_type if library else type_of
    for name, parameter in parameters(target).items():
        default = parameter.default
        if default is Parameter.empty or name in others or getattr(default, "takes_self", False):
            continue
        try:
            found[name] = _as_read(converter, kind_of(target, parameter), default)
        # Values of others' types may refuse to be written or compared in any way.
        except (*REFUSALS, AttributeError, RuntimeError, KeyError):
            continue
    return found


def _as_read(converter: Converter, kind: Any, default: Any) -> Any:
    if hasattr(default, "takes_self"):
        default = default.factory()
    # A tuple is a list in YAML.
    written = plain(tree_of(converter.unstructure(default, kind), ""))
    if not _is_plain(written):
        raise Rejected("has no form in YAML")
    # A tuple is a list in YAML.
    read = converter.structure(plain(tree_of(written, "")), kind)
    # A component is read with the defaults of its own target, which the default may lack.
    alike = read == default or getattr(read, "target", None) == getattr(default, "target", read)
    if not bool(alike):
        raise Rejected("is read as something else")
    return read


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _is_plain(each) for key, each in value.items())
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def _refusals(
    error: BaseException, path: tuple[Step, ...]
) -> Iterator[tuple[tuple[Step, ...], BaseException]]:
    if not isinstance(error, ClassValidationError | IterableValidationError):
        yield path, error
        return
    located, others = error.group_exceptions()
    for below, note in located:
        yield from _refusals(below, (*path, _step(note)))
    for below in others:
        yield from _refusals(below, path)


def _problem(error: BaseException, path: tuple[Step, ...], tree: Tree) -> Problem | None:
    """The problem that a refusal is; None where it follows from another."""
    if isinstance(error, StructureHandlerNotFoundError):
        message = f"is annotated {error.type_}, which has no form in YAML; leave it out"
    elif isinstance(error, ValueError | TypeError):
        # The path says the name already, which validators put before their message.
        subject = rf"[`'\"]{re.escape(str(path[-1]))}_?[`'\"] " if path else ""
        message = re.sub(f"^{subject}", "", message_of(error))
    else:
        raise error
    passed = list(trees_along(tree, path))
    # What was typed is reported here if it is not YAML, as it may have been a text.
    unread = has_unknown(passed[-1]) and passed[-1].typed is None
    if isinstance(error, Absent):
        follows = passed[-1].value is UNKNOWN or any(each.partial for each in passed)
    else:
        follows = unread and len(passed) > len(path) and not isinstance(error, UnknownKey)
    return None if follows else Problem(path_text(path), message, passed[-1].origin, error)


def _step(note: AttributeValidationNote | IterableValidationNote) -> Step:
    return note.name if isinstance(note, AttributeValidationNote) else note.index
