"""A chosen component, to be built when its collaborators exist."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar, cast, get_args, get_origin

import attrs

from .parameters import parameters
from .protocols import lacking

T_co = TypeVar("T_co", covariant=True)


def component_type(annotation: Any) -> Any:
    """What a `Component[...]` annotation promises to build, or None for other annotations.

    Example:
        >>> component_type(Component[int]), component_type(int)
        (<class 'int'>, None)
    """
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

    Example:
        >>> Component("fraction", __import__("fractions").Fraction, {"numerator": 3}).build()
        Fraction(3, 1)
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
        """Call the target with its arguments and those offered collaborators that it names.

        A target that is ready is returned as it is.

        Args:
            offered: collaborators by name, see `Registry.offers`.

        Raises:
            TypeError: a collaborator is also among the arguments, or what is built does not follow
                `builds`.
        """
        if self.ready:
            return cast(T_co, self.target)
        wanted = {parameter.name for parameter in parameters(self.target)}
        collaborators = {name: value for name, value in offered.items() if name in wanted}
        found = self.target(**self.arguments, **collaborators)
        lacks = lacking(found, self.builds)
        if lacks:
            raise TypeError(f"{self.name!r} makes a {type(found).__name__}, which {lacks}")
        return found
