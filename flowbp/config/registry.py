"""Components and their names: built in, of an entry point, or a dotted path."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import pkgutil
import re
import sys
from collections.abc import Callable, Mapping
from importlib import metadata
from typing import Any, Generic, TypeVar, cast, get_args, get_origin

import attrs

from flowbp.component_errors import passes
from flowbp.extras import install

from .arguments import by_keyword, parameters, required
from .problems import Rejected, listed, nearest, shown
from .protocols import lacking, misfit

T_co = TypeVar("T_co", covariant=True)

_OURS = "flowbp itself"
_DOTTED = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


def component_type(annotation: Any) -> Any:
    """What a `Component[...]` annotation promises to build, or None for other annotations."""
    origin: Any = get_origin(annotation)
    return get_args(annotation)[0] if origin is Component else None


@attrs.frozen
class Component(Generic[T_co]):
    """A chosen component whose arguments are valid, to be built when its collaborators exist.

    The `defaults` are those of the target that YAML can hold: two components are equal whether an
    argument is given or the default. If `ready`, the target is the component itself. What is built
    must follow the protocol `builds`.
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
        return collaborator in parameters(self.target)

    def build(self, **offered: Any) -> T_co:
        """Call the target with its arguments and those offered collaborators that it names."""
        if self.ready:
            return cast(T_co, self.target)
        wanted = parameters(self.target)
        collaborators = {name: value for name, value in offered.items() if name in wanted}
        found = self.target(**by_keyword(self.target, self.arguments), **collaborators)
        lacks = lacking(found, self.builds)
        if lacks:
            raise TypeError(f"{self.name!r} makes a {type(found).__name__}, which {lacks}")
        return found


@attrs.frozen(eq=False)
class Library:
    """Classes or functions of libraries that become components as they are, by their own arguments.

    Args:
        fits: whether a target is one of them.
        component: what stands for it, `component(target=…, arguments=…)`, which has both as
            attributes.
        supplied: the arguments that the run gives.
        example: a dotted path of one, for messages.
        faults: why a target does not take arguments, by key, or by none if by all together.
    """

    fits: Callable[[Any], bool]
    component: type[Any]
    supplied: frozenset[str]
    example: str
    faults: Callable[[Any, Mapping[str, Any]], Mapping[str, str]]


def _dotted(_: Any, attribute: attrs.Attribute[Any], value: Mapping[str, str]) -> None:
    for name, path in value.items():
        if not _DOTTED.fullmatch(path):
            raise ValueError(
                f"`{attribute.name}` must map names to package.module:Class, got {name}={path!r}"
            )


@functools.cache
def _entry_points(group: str, path: tuple[str, ...]) -> metadata.EntryPoints:
    """Those of the packages on the path, of which each has a file to read."""
    return metadata.entry_points(group=group)


@attrs.frozen(eq=False)
class Registry:
    """The components of one kind that a configuration can name.

    A name is a built-in one of `targets`, an entry point of the group, or a dotted path
    ``package.module:Class``. Nothing is imported before it is named.
    """

    kind: str
    targets: Mapping[str, str] = attrs.field(validator=_dotted)
    # What fields of a configuration are annotated with.
    builds: Any = attrs.field(kw_only=True)
    entry_points: str = attrs.field(kw_only=True)
    # What `Component.build` will be given, as far as a target names it.
    offers: frozenset[str] = attrs.field(default=frozenset(), kw_only=True)
    # What a component is called with, if it can be called: what requires just these is one itself.
    called_with: frozenset[str] = attrs.field(default=frozenset(), kw_only=True)
    library: Library | None = attrs.field(default=None, kw_only=True)
    # The extra of flowbp that brings what built-in names of other packages need.
    extra: str = attrs.field(default="", kw_only=True)
    # Kinds whose names may be given as well, where this one has no such name.
    also: tuple[Registry, ...] = attrs.field(default=(), kw_only=True)

    def own_names(self) -> tuple[str, ...]:
        """Built-in names in their order, then those of entry points."""
        registered = {point.name for point in self._points()}
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
        points = self._points().select(name=name)
        places = [(_distribution(point), f"{point.module}:{point.attr}") for point in points]
        if name in self.targets:
            places.insert(0, (_OURS, self.targets[name]))
        if not places:
            example = f", such as {self.library.example}" if self.library else ""
            raise Rejected(
                f"no {self.kind} is called {shown(name)}. {nearest(name, self.names())}"
                f"Names: {listed(self.names())}; or write package.module:Class{example}"
            )
        if len(places) > 1:
            raise Rejected(
                f"the {self.kind} `{name}` comes from {' and from '.join(of for of, _ in places)}; "
                "write package.module:Class instead of the name"
            )
        ((of, path),) = places
        if of == _OURS:
            self._refuse_missing(name, path)
        found = _imported(path, "" if of == _OURS else f"the {self.kind} `{name}` of {of}")
        return _callable(found, name)

    def _points(self) -> metadata.EntryPoints:
        return _entry_points(self.entry_points, tuple(sys.path))

    def _refuse_missing(self, name: str, path: str) -> None:
        package = path.partition(":")[0].partition(".")[0]
        if self.extra and importlib.util.find_spec(package) is None:
            raise Rejected(
                f"the {self.kind} `{name}` needs {package}, which is not installed; run: "
                + install(self.extra)
            )

    def library_of(self, target: Any) -> Library | None:
        """How a target becomes a component as it is; None if it is not one of a library."""
        return self.library if self.library is not None and self.library.fits(target) else None

    def name_of(self, target: Any) -> str:
        """The built-in name of a class or function, or its dotted path."""
        for name, path in self.targets.items():
            # A target comes from a module that is loaded.
            if path.partition(":")[0] in sys.modules and _imported(path) is target:
                return name
        path = f"{target.__module__}:{target.__qualname__}"
        if _imported(path) is not target:
            raise Rejected(f"the {self.kind} {path} is hidden by another object of that name")
        return path

    def is_ready(self, target: Any) -> bool:
        """Whether a target is a component as it stands, rather than what builds one."""
        if not self.called_with or isinstance(target, type):
            return False
        return set(required(target)) == self.called_with

    def misnamed(self, target: Any) -> tuple[str, ...]:
        """The arguments by whose names a function is no component, if it may be meant as one."""
        if not inspect.isfunction(target) or self.is_ready(target):
            return ()
        found = required(target)
        as_many = len(found) == len(self.called_with) and not self.offers.intersection(found)
        return found if as_many or self.called_with.intersection(found) else ()

    def misfit(self, name: str, target: Any) -> str:
        """Why what others call a component plainly is none and makes none; empty if it may."""
        if name in self.targets or self.origin_of(name) is not self or self.is_ready(target):
            return ""
        if self.library_of(target) is not None:
            return ""
        return misfit(target, self.kind, self.builds)

    def describes(self, annotation: Any) -> bool:
        """Whether a field's annotation is this registry's type."""
        return bool(annotation == self.builds or get_origin(annotation) == self.builds)


def _imported(path: str, entry_point: str = "") -> Any:
    module, _, qualified = path.partition(":")
    if not _DOTTED.fullmatch(path):
        raise Rejected(f"{shown(path)} is not a dotted path; write package.module:Class")
    try:
        return functools.reduce(getattr, qualified.split("."), importlib.import_module(module))
    # Importing runs code of others, and whatever it raises is a problem of the configuration.
    except BaseException as error:
        if passes(error):
            raise
        why = f"({type(error).__name__}: {error})"
        raise Rejected(
            f"{entry_point} cannot be imported from {path} {why}; repair or uninstall it"
            if entry_point
            else f"{path!r} cannot be imported {why}. {_near(error)}Correct the path or install "
            "what is missing"
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


def _distribution(point: metadata.EntryPoint) -> str:
    return f"the distribution {point.dist.name}" if point.dist else "an unnamed distribution"


def _callable(target: Any, name: str) -> Callable[..., Any]:
    if not callable(target):
        raise Rejected(f"{name!r} is a {type(target).__name__}; name a class or a function")
    return target  # type: ignore[no-any-return]
