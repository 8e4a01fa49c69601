"""Components and their names: built in, of an entry point, or a dotted path."""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Callable, Mapping
from importlib import metadata
from typing import Any, Generic, TypeVar, cast, get_args, get_origin

import attrs

from flowbp.component_errors import passes

from .parameters import parameters
from .problems import Rejected, listed, nearest, shown
from .protocols import lacking, misfit

T_co = TypeVar("T_co", covariant=True)

_DOTTED = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


def component_type(annotation: Any) -> Any:
    """What a `Component[...]` annotation promises to build, or None for other annotations."""
    origin: Any = get_origin(annotation)
    return get_args(annotation)[0] if origin is Component else None


@attrs.frozen
class Component(Generic[T_co]):
    """A chosen component whose arguments are valid, to be built when its collaborators exist.

    A configuration field annotated ``Component[Backbone]`` holds one; a field annotated
    ``Backbone`` holds the built value itself.

    Args:
        name: the name in the configuration.
        target: the callable behind the name.
        arguments: keyword arguments from the configuration, already of the annotated types.
        defaults: of the target for those that are not given, as far as YAML can hold them. Two
            components are equal whether an argument is given or the default.
        ready: whether the target is the component itself, and nothing is to be built.
        builds: the protocol that what is built must follow; None asks for nothing.
    """

    name: str
    target: Callable[..., T_co]
    arguments: Mapping[str, Any] = attrs.field(factory=dict, eq=False)
    ready: bool = attrs.field(default=False, kw_only=True)
    builds: Any = attrs.field(default=None, kw_only=True, eq=False, repr=False)
    defaults: Mapping[str, Any] = attrs.field(factory=dict, eq=False, repr=False, kw_only=True)
    _in_effect: Mapping[str, Any] = attrs.field(init=False, repr=False)

    @_in_effect.default
    def _arguments_and_defaults(self) -> Mapping[str, Any]:
        return {**self.defaults, **self.arguments}

    @property
    def completed(self) -> dict[str, Any]:
        """The arguments, and the target's defaults for those that are not given."""
        found = inspect.signature(self.target).parameters.values()
        return {p.name: p.default for p in found if p.default is not p.empty} | {**self.arguments}

    def takes(self, collaborator: str) -> bool:
        """Whether the target names a collaborator among its keywords."""
        return any(parameter.name == collaborator for parameter in parameters(self.target))

    def build(self, **offered: Any) -> T_co:
        """Call the target with its arguments and those offered collaborators that it names."""
        if self.ready:
            return cast(T_co, self.target)
        wanted = {parameter.name for parameter in parameters(self.target)}
        collaborators = {name: value for name, value in offered.items() if name in wanted}
        found = self.target(**self.arguments, **collaborators)
        lacks = lacking(found, self.builds)
        if lacks:
            raise TypeError(f"{self.name!r} makes a {type(found).__name__}, which {lacks}")
        return found


def _dotted(_: Any, attribute: attrs.Attribute[Any], value: Mapping[str, str]) -> None:
    for name, path in value.items():
        if not _DOTTED.fullmatch(path):
            raise ValueError(
                f"`{attribute.name}` must map names to package.module:Class, got {name}={path!r}"
            )


@attrs.frozen(eq=False)
class Registry:
    """The components of one kind that a configuration can name.

    A name is a built-in one, an entry point of the group, or a dotted path
    ``package.module:Class``. Nothing is imported before it is named.

    Args:
        kind: the word for messages, such as ``method``.
        targets: built-in names to dotted paths.
        builds: the type that configuration fields are annotated with; generic parameters of the
            annotation are ignored.
        entry_points: the group under which other distributions register theirs.
        offers: names of collaborators that `Component.build` will receive from the container;
            a target takes those that its signature names, and a configuration cannot set them.
        called_with: the arguments that a built component is called with, if it is a callable. A
            function or object that requires just these is itself the component.
        also: kinds whose names may be given as well, where this one has no such name.
    """

    kind: str
    targets: Mapping[str, str] = attrs.field(validator=_dotted)
    builds: Any = attrs.field(kw_only=True)
    entry_points: str = attrs.field(kw_only=True)
    offers: frozenset[str] = attrs.field(default=frozenset(), kw_only=True)
    called_with: frozenset[str] = attrs.field(default=frozenset(), kw_only=True)
    also: tuple[Registry, ...] = attrs.field(default=(), kw_only=True)

    def own_names(self) -> tuple[str, ...]:
        """Built-in names in their order, then those of entry points."""
        registered = {point.name for point in metadata.entry_points(group=self.entry_points)}
        return (*self.targets, *sorted(registered - set(self.targets)))

    def names(self) -> tuple[str, ...]:
        """All that can be named: the own names, then those of `also`."""
        others = (name for other in self.also for name in other.names())
        return tuple(dict.fromkeys((*self.own_names(), *others)))

    def origin_of(self, name: str) -> Registry:
        """The registry that a name belongs to: this one, or one of `also`."""
        others = (other.origin_of(name) for other in self.also if name in other.names())
        return self if name in self.own_names() else next(others, self)

    def resolve(self, name: str) -> Callable[..., Any]:
        """Import the callable behind a name."""
        if ":" in name:
            return _callable(_imported(name), name)
        origin = self.origin_of(name)
        if origin is not self:
            return origin.resolve(name)
        points = metadata.entry_points(group=self.entry_points, name=name)
        sources = [_distribution(point) for point in points]
        if name in self.targets:
            sources.insert(0, "flowbp itself")
        if len(sources) > 1:
            raise Rejected(
                f"the {self.kind} `{name}` comes from {' and from '.join(sources)}; "
                "write package.module:Class instead of the name"
            )
        if name in self.targets:
            return _callable(_imported(self.targets[name]), name)
        for point in points:
            return _callable(_loaded(point, self.kind), name)
        raise Rejected(
            f"no {self.kind} is called {shown(name)}. {nearest(name, self.names())}"
            f"Names: {listed(self.names())}; or write package.module:Class"
        )

    def name_of(self, target: Any) -> str:
        """The built-in name of a class or function, or its dotted path."""
        for name, path in self.targets.items():
            if _imported(path) is target:
                return name
        path = f"{target.__module__}:{target.__qualname__}"
        if _imported(path) is not target:
            raise Rejected(f"the {self.kind} {path} is hidden by another object of that name")
        return path

    def is_ready(self, target: Any) -> bool:
        """Whether a target is a component as it stands, rather than what builds one."""
        if not self.called_with or isinstance(target, type):
            return False
        return {p.name for p in parameters(target) if p.required} == self.called_with

    def misnamed(self, target: Any) -> tuple[str, ...]:
        """The arguments by whose names a function is no component, if it may be meant as one."""
        if not inspect.isfunction(target) or self.is_ready(target):
            return ()
        required = tuple(p.name for p in parameters(target) if p.required)
        others = self.offers.intersection(required)
        as_many = len(required) == len(self.called_with) and not others
        return required if as_many or self.called_with.intersection(required) else ()

    def misfit(self, name: str, target: Any) -> str:
        """Why what others call a component plainly is none and makes none; empty if it may."""
        if name in self.targets or self.origin_of(name) is not self or self.is_ready(target):
            return ""
        return misfit(target, self.kind, self.builds)

    def describes(self, annotation: Any) -> bool:
        """Whether a field's annotation is this registry's type."""
        return bool(annotation == self.builds or get_origin(annotation) == self.builds)


def _imported(path: str) -> Any:
    module, _, qualified = path.partition(":")
    if not _DOTTED.fullmatch(path):
        raise Rejected(f"{shown(path)} is not a dotted path; write package.module:Class")
    try:
        return functools.reduce(getattr, qualified.split("."), importlib.import_module(module))
    # Importing runs code of others, and whatever it raises is a problem of the configuration.
    except BaseException as error:
        if passes(error):
            raise
        raise Rejected(
            f"{path!r} cannot be imported ({type(error).__name__}: {error}). {_near(error)}"
            "Correct the path or install what is missing"
        ) from error


def _near(error: BaseException) -> str:
    """Names like the one that is not there."""
    if isinstance(error, AttributeError) and error.name is not None:
        return nearest(error.name, dir(error.obj))
    if not isinstance(error, ModuleNotFoundError) or error.name is None:
        return ""
    parent, _, name = error.name.rpartition(".")
    place = getattr(sys.modules.get(parent), "__path__", []) if parent else None
    return nearest(name, [module.name for module in pkgutil.iter_modules(place)])


def _loaded(point: metadata.EntryPoint, kind: str) -> Any:
    try:
        return point.load()
    # As above: an entry point is code of others.
    except BaseException as error:
        if passes(error):
            raise
        raise Rejected(
            f"the {kind} `{point.name}` of {_distribution(point)} cannot be imported from "
            f"{point.value} ({type(error).__name__}: {error}); repair or uninstall it"
        ) from error


def _distribution(point: metadata.EntryPoint) -> str:
    return f"the distribution {point.dist.name}" if point.dist else "an unnamed distribution"


def _callable(target: Any, name: str) -> Callable[..., Any]:
    if not callable(target):
        raise Rejected(f"{name!r} is a {type(target).__name__}; name a class or a function")
    return target  # type: ignore[no-any-return]
