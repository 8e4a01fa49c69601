"""A tree into a typed configuration, with every problem reported at once."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from cattrs import Converter
from cattrs.errors import (
    AttributeValidationNote,
    BaseValidationError,
    ClassValidationError,
    IterableValidationError,
    IterableValidationNote,
    StructureHandlerNotFoundError,
)

from flowbp.config.arguments import (
    IncompleteError,
    Partial,
    arguments_of,
    built,
    message_of,
    partial_of,
)

from .converter import Scalar, meant, strict_converter
from .parameters import is_attrs_class, parameters
from .problems import Absent, ConfigurationError, Problem, Rejected, UnknownKey, listed, shown
from .protocols import lacking
from .registry import Component, Registry, component_type
from .tree import UNKNOWN, Step, Tree, along, has_unknown, marked, path_text
from .unstructuring import defaults_of, register_writing

T = TypeVar("T")


def structure(
    cls: type[T],
    tree: Tree,
    *,
    registries: Iterable[Registry] = (),
    scalars: Iterable[Scalar] = (),
) -> T:
    """Turn a tree into an instance of an attrs class, or report all that is wrong with it.

    A field annotated with a registry's type takes a mapping with a `name`: an attrs class of that
    name is built from the other keys, a function of that name is the value itself. A field
    annotated ``Component[...]`` of that type takes the same mapping, checks it against the
    target's fields or signature and leaves the building to its owner. `name` is reserved for
    this: no field of a configuration class may be called so.

    Args:
        cls: an attrs class.
        tree: what `read_arguments` or `merge` returned.
        registries: the kinds of components that fields may hold.
        scalars: further types that fields may hold.
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
    converter = strict_converter(scalars)
    # Later hooks win: a registry's type may itself be a union or an attrs class.
    converter.register_structure_hook_factory(is_attrs_class)(_class_rule)
    converter.register_structure_hook_func(
        lambda kind: component_type(kind) is not None, _refuse_unregistered
    )
    registries = tuple(registries)
    register_writing(converter, registries)
    for registry in registries:
        _register(converter, registry)
    try:
        return converter.structure(marked(tree), cls), ()
    except BaseValidationError as error:
        found = (_problem(each, path, tree) for path, each in _refusals(error, ()))
        return partial_of(error) or Partial({}), tuple(each for each in found if each)


def _class_rule(cls: Any, converter: Converter) -> Any:
    _refuse_reserved(cls)

    def read(value: Any, _: Any) -> Any:
        if not isinstance(value, dict):
            error = Rejected(f"must be a mapping, got {shown(value)}; write its keys below it")
            raise ClassValidationError(f"While structuring {cls!r}", [error], cls)
        try:
            return built(cls, arguments_of(converter, cls, value))
        except IncompleteError as refusal:
            refusal.partial = Partial(refusal.sound)
            raise

    return read


def _refuse_reserved(cls: Any) -> None:
    if any(parameter.name == "name" for parameter in parameters(cls)):
        raise TypeError(f"{cls.__name__} has a field `name`, which chooses components; rename it")


def _register(converter: Converter, registry: Registry) -> None:
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
        defaults = defaults_of(converter, target, registry.offers.union(arguments))
        builds = _promised(registry, name)
        return Component(name, target, arguments, defaults=defaults, builds=builds)

    def instance(value: Any, _: Any) -> Any:
        name, target, rest = _chosen(registry, value)
        if is_attrs_class(target):
            return fitting(name, built(target, arguments_of(converter, target, rest)))
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

    converter.register_structure_hook_func(registry.describes, instance)
    converter.register_structure_hook_func(is_deferred, component)


def _promised(registry: Registry, name: str) -> Any:
    """The protocol that what others make must follow; None of what is built in."""
    ours = registry.origin_of(name) is not registry or name in registry.targets
    return None if ours else registry.builds


def _chosen(registry: Registry, value: Any) -> tuple[str, Any, dict[str, Any]]:
    if not isinstance(value, dict) or "name" not in value:
        kind = Absent if isinstance(value, dict) else Rejected
        raise kind(
            f"must be a mapping with the `name` of a {registry.kind}, got {shown(value)}; "
            f"names: {listed(registry.names())}"
        )
    name = meant(value["name"], str)
    try:
        if not isinstance(name, str):
            raise Rejected(f"must be text, got {name!r}; names: {listed(registry.names())}")
        target = registry.resolve(name)
        misfit = registry.misfit(name, target)
        if misfit:
            raise Rejected(f"names {name!r}, which {misfit}")
    except Rejected as error:
        error.add_note(AttributeValidationNote("at name", "name", str))
        raise ClassValidationError(f"No {registry.kind}", [error], Registry) from error
    if is_attrs_class(target):
        _refuse_reserved(target)
    return name, target, type(value)({k: item for k, item in value.items() if k != "name"})


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
    error.add_note(AttributeValidationNote("at name", "name", str))
    raise ClassValidationError(f"No {registry.kind}", [error], Registry)


def _refuse_unregistered(_: Any, kind: Any) -> Any:
    raise TypeError(f"is annotated {kind}, for which no registry was given; pass one")


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
        subject = rf"[`'\"]{re.escape(str(path[-1]))}[`'\"] " if path else ""
        message = re.sub(f"^{subject}", "", message_of(error))
    else:
        raise error
    passed = list(along(tree, path))
    # What was typed is reported here if it is not YAML, as it may have been a text.
    unread = has_unknown(passed[-1]) and passed[-1].typed is None
    if isinstance(error, Absent):
        follows = passed[-1].value is UNKNOWN or any(each.partial for each in passed)
    else:
        follows = unread and len(passed) > len(path) and not isinstance(error, UnknownKey)
    return None if follows else Problem(path_text(path), message, passed[-1].origin, error)


def _step(note: AttributeValidationNote | IterableValidationNote) -> Step:
    return note.name if isinstance(note, AttributeValidationNote) else note.index
