"""Components that are chosen by name: built in, registered by an entry point, or a dotted path."""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Callable, Mapping
from importlib import metadata
from typing import Any, get_origin

import attrs

from flowbp.components import passes

from .parameters import parameters
from .problems import Rejected, listed, nearest, shown
from .protocols import misfit

_DOTTED = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


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

    Raises:
        ValueError: a target is not a dotted path.

    Example:
        >>> from numbers import Number
        >>> numbers = Registry(
        ...     "number", {"fraction": "fractions:Fraction"},
        ...     builds=Number, entry_points="example.numbers",
        ... )
        >>> numbers.resolve("fraction")
        <class 'fractions.Fraction'>
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
        """Import the callable behind a name.

        Args:
            name: built-in name, entry-point name or dotted path.

        Raises:
            ValueError: the name is unknown or ambiguous, or its import fails.
        """
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
        """The built-in name of a class or function, or its dotted path.

        Args:
            target: what `resolve` returned.

        Raises:
            ValueError: the target is neither built in nor importable by a dotted path.
        """
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
        """The arguments of a function that may be meant as a component, and is none by their names.

        Empty for what is one, and for what requires another number of others.
        """
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
