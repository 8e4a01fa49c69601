"""The keys that a class or a component takes in YAML: type, default and what each does."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import Enum
from inspect import Parameter
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import attrs
from cattrs import Converter

from flowbp.validators import range_of

from .arguments import is_attrs_class, key_named, parameters, type_of
from .converter import PLACE, REFUSALS, UNIONS, Scalar
from .registry import Registry, component_type
from .structuring import yaml_converter
from .yaml import dump_line

REQUIRED = "required"
DEPENDS = "depends"
"""In place of a default: there is none; it follows from other keys, as the description says."""

LABEL = "LABEL"
"""In a path: the label of your own under which a mapping holds something."""


@attrs.frozen
class Key:
    """A key of a configuration.

    Args:
        path: dotted, such as `training.steps`.
        kind: what it takes, in words.
        default: as YAML writes it, of a component its name; or `REQUIRED` or `DEPENDS`.
        text: what it does; empty if its class has no such line under `Args:`.
        registry: of the component that it names, or of those by label.
        inner: the path of what its mapping or its component holds.
        below: the keys of its mapping.
    """

    path: str
    kind: str
    default: str
    text: str
    registry: Registry | None = None
    inner: str = ""
    below: tuple[Key, ...] = ()

    def flat(self) -> Iterator[Key]:
        """The key and all those below it."""
        yield self
        for key in self.below:
            yield from key.flat()


@attrs.frozen
class Keys:
    """Reads the keys of targets: attrs classes, and functions or classes that build a component."""

    registries: Sequence[Registry]
    scalars: Iterable[Scalar] = attrs.field(kw_only=True)
    _converter: Converter = attrs.field(init=False, repr=False)

    @_converter.default
    def _made(self) -> Converter:
        return yaml_converter(self.registries, self.scalars)

    def of(
        self, target: Any, *, above: str = "", offered: frozenset[str] = frozenset()
    ) -> tuple[Key, ...]:
        """The keys of a target; `above` is the path of its mapping, `offered` are no keys.

        Those that the target describes itself come before those that it inherits.
        """
        known = {
            name: parameter
            for name, parameter in parameters(target).items()
            if name not in offered and parameter.kind is not Parameter.VAR_KEYWORD
        }
        own = next(map(_arguments, _docstrings(target)), {})
        found = (
            self._key(target, name, known[name], f"{above}.{name}" if above else name)
            for name in sorted(known, key=lambda name: name not in own)
        )
        return tuple(key for key in found if key is not None)

    def _key(self, target: Any, name: str, parameter: Parameter, path: str) -> Key | None:
        kind = type_of(target, parameter)
        words = self._words(kind)
        if not words:
            return None
        inner = _without_null(kind)
        text = description(target, name)
        field = attrs.fields_dict(target).get(parameter.name) if is_attrs_class(target) else None
        bounds = range_of(field.validator) if field is not None else ""
        within, nested = path, inner
        if get_origin(inner) in _MAPPINGS:
            within, nested = f"{path}.{LABEL}", get_args(inner)[1]
        registry = self._registry(nested)
        return Key(
            path=path,
            kind=f"{words}, {bounds}" if bounds else words,
            default=self._default(kind, parameter.default),
            text=text,
            registry=registry,
            inner=within,
            below=self.of(nested, above=within) if is_attrs_class(nested) else (),
        )

    def _registry(self, kind: Any) -> Registry | None:
        found = (r for r in self.registries if r.describes(kind) or r.describes(_promise(kind)))
        return next(found, None)

    def _words(self, kind: Any) -> str:
        """A type in words; empty for one that YAML has no form for."""
        registry, origin, members = self._registry(kind), get_origin(kind), get_args(kind)
        if registry is not None:
            return registry.kind
        if origin in UNIONS:
            if PLACE in members:
                members = (PLACE, *(each for each in members if each is type(None)))
            words = [self._words(each) for each in members]
            return " or ".join(words) if all(words) else ""
        if origin is Literal:
            return " or ".join(map(str, members))
        if isinstance(kind, type) and issubclass(kind, Enum):
            return " or ".join(str(member.value) for member in kind)
        if origin in _MAPPINGS:
            inner = self._words(members[1])
            return f"mapping of labels to a {inner}" if inner not in ("", "anything") else "mapping"
        if origin is tuple and members[-1] is not Ellipsis:
            return f"list of {len(members)} {self._words(members[0])}s"
        if origin in (tuple, list, Sequence):
            return f"list of {self._words(members[0])}s"
        if is_attrs_class(kind):
            # `name` is reserved for components.
            return "" if "name" in parameters(kind) else "mapping"
        scalars = {scalar.type: str(scalar.type.__name__) for scalar in self.scalars}
        return {**_WORDS, **scalars}.get(kind, "")

    def _default(self, kind: Any, default: Any) -> str:
        if default is Parameter.empty:
            return REQUIRED
        if hasattr(default, "takes_self"):
            if default.takes_self:
                return DEPENDS
            default = default.factory()
        if default is None and type(None) not in get_args(kind):
            # The target itself refuses to be built without it.
            return REQUIRED
        try:
            value = self._converter.unstructure(default, kind)
        except REFUSALS:
            return DEPENDS
        named = isinstance(value, Mapping) and "name" in value
        return dump_line(value["name"] if named else value).replace(str(Path.home()), "~")


_MAPPINGS = (Mapping, dict)
_WORDS: Mapping[Any, str] = {
    bool: "true or false",
    int: "integer",
    float: "number",
    str: "text",
    Path: "path",
    PLACE: "path or hub id",
    type(None): "null",
    list: "list",
    tuple: "list",
    dict: "mapping",
    Any: "anything",
}


def _promise(kind: Any) -> Any:
    promised = component_type(kind)
    return kind if promised is None else promised


def _without_null(kind: Any) -> Any:
    members = [each for each in get_args(kind) if each is not type(None)]
    return members[0] if get_origin(kind) in UNIONS and len(members) == 1 else kind


def description(target: Any, name: str) -> str:
    """What the docstring of a target says of a key under `Args:`; empty if it says nothing.

    A class that says nothing has the description of the class that it inherits from, and so has
    the classmethod that builds one.
    """
    return next(
        (found[name] for found in map(_arguments, _docstrings(target)) if name in found), ""
    )


def summary(target: Any) -> str:
    """The first paragraph of a target's docstring, of a classmethod that of its class."""
    owner = getattr(target, "__self__", None)
    text = next(_docstrings(owner if isinstance(owner, type) else target), "")
    return _in_yaml_words(" ".join(inspect.cleandoc(text).partition("\n\n")[0].split()))


def _docstrings(target: Any) -> Iterator[str]:
    owner, name = getattr(target, "__self__", None), getattr(target, "__name__", "")
    if isinstance(target, type):
        places: Iterable[Any] = target.__mro__
    elif isinstance(owner, type):
        places = (vars(each).get(name) for each in owner.__mro__)
    else:
        places = (target,)
    for place in places:
        text = getattr(getattr(place, "__func__", place), "__doc__", None)
        # attrs and Protocol write some of their own; those of built-in classes are not ours.
        if text and place is not object:
            yield text


_ENTRY = re.compile(r"^    (?P<names>\w+): +(?P<text>.*(?:\n {8,}.*)*)", re.MULTILINE)


def _arguments(docstring: str) -> dict[str, str]:
    """The entries under `Args:` by key."""
    block = re.search(r"^Args:\n((?: {4,}.*\n?|\n)*)", inspect.cleandoc(docstring), re.MULTILINE)
    if block is None:
        return {}
    entries = ((found["names"], found["text"]) for found in _ENTRY.finditer(block[1]))
    return {
        key_named(name): _in_yaml_words(_capital(" ".join(text.split()))) for name, text in entries
    }


def _capital(text: str) -> str:
    """A description with a capital, unless it begins with a symbol."""
    return text[:1].upper() + text[1:] if re.match(r"a |[a-z]{2}[a-z-]*\b", text) else text


def _in_yaml_words(text: str) -> str:
    """A text about Python values as one about those of YAML."""
    text = text.replace("``", "`")
    return re.sub(r"\b(None|True|False)\b", lambda found: _PYTHON[found[0]], text)


_PYTHON: Mapping[str, str] = {"None": "null", "True": "true", "False": "false"}
