"""What every key of a configuration does, found by section or by the name of a component."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from flowbp.config import Registry, plain, read_file
from flowbp.config.arguments import is_attrs_class
from flowbp.config.keys import Key, Keys, summary
from flowbp.config.problems import Rejected, listed, nearest
from flowbp.config.yaml import dump_line
from flowbp.settings.loader import presets
from flowbp.settings.registries import REGISTRIES, SCALARS

_KEYS = Keys(REGISTRIES, scalars=SCALARS)


@attrs.frozen
class Entry:
    """A section or a component: what it is, its keys, and the components that it may name.

    Args:
        title: the path of the section, or a kind and a name.
        text: what it is.
        key: the section itself; None for a component or a kind.
        keys: those in it.
        names: what may be named there, each with what it is.
        component: its name, where it is one; it decides which presets set its keys.
    """

    title: str
    text: str
    key: Key | None = None
    keys: tuple[Key, ...] = ()
    names: Mapping[str, str] = attrs.field(factory=dict)
    component: str = ""


def sections(root: Any) -> tuple[Entry, ...]:
    """Every section of a class of settings, in its order."""
    return tuple(_section(key) for key in _KEYS.of(root))


def _section(key: Key) -> Entry:
    names = {} if key.registry is None else _summaries(key.registry)
    below = tuple(each for inner in key.below for each in inner.flat())
    return Entry(key.path, key.text, key, below, names)


def component(registry: Registry, name: str, *, above: str = "") -> Entry:
    """A component by any name that a configuration may give it; `above` is the path of its keys."""
    target = registry.resolve(name)
    misfit = registry.misfit(name, target)
    if misfit:
        raise Rejected(f"{name!r} {misfit}")
    keys: tuple[Key, ...] = ()
    # A function that is a component itself, or stands for its own value, takes none.
    if not registry.is_ready(target) and (is_attrs_class(target) or registry.offers):
        found = _KEYS.of(target, above=above, offered=registry.offers)
        keys = tuple(each for key in found for each in key.flat())
    return Entry(f"{above or registry.kind}: {name}", summary(target), keys=keys, component=name)


def keys_by_path(root: Any) -> dict[str, Key]:
    """Every key of a class of settings, but those of components."""
    return {key.path: key for section in _KEYS.of(root) for key in section.flat()}


def kind_word(registry: Registry) -> str:
    """A kind in one word, as in the name of its group of entry points: `pair_draw`."""
    return registry.entry_points.removeprefix("flowbp.").removesuffix("s")


def home(registry: Registry, root: Any) -> str:
    """Where a component of a kind stands first in a class of settings; empty if in others alone."""
    return next((k.inner for k in keys_by_path(root).values() if k.registry is registry), "")


def _summaries(registry: Registry) -> dict[str, str]:
    found = {}
    for name in registry.own_names():
        try:
            found[name] = summary(registry.resolve(name))
        # That of another package which cannot be imported, say.
        except Rejected as error:
            found[name] = str(error)
    for other in registry.also:
        found |= {name: text for name, text in _summaries(other).items() if name not in found}
    return found


def look_up(words: Sequence[str], root: Any) -> tuple[Entry, ...]:
    """What words ask for: a section, a key, or a kind and the name of a component of it.

    All sections without any words.

    Raises:
        Rejected: there is none of that name.
    """
    if not words:
        return sections(root)
    known = keys_by_path(root)
    kinds = {kind_word(registry): registry for registry in REGISTRIES}
    subject, *names = words
    if ".".join(words) in known:
        subject, names = ".".join(words), []
    key = known.get(subject)
    registry = kinds.get(subject) if key is None else key.registry
    if key is None and registry is None:
        raise Rejected(
            f"there is no key {subject!r}, and no kind of component. "
            f"{nearest(subject, dict.fromkeys((*known, *kinds)))}Sections: "
            f"{listed(path for path in known if '.' not in path)}; kinds: {listed(kinds)}"
        )
    if names and registry is None:
        below = (path for path in known if path.startswith(f"{subject}."))
        raise Rejected(
            f"{subject!r} names no component, so that there is no {names[0]!r} of it; keys below "
            f"it: {listed(below) or 'none'}"
        )
    if len(names) > 1:
        raise Rejected(f"{' '.join(words)!r} is more than a section and a name; leave out the rest")
    if names:
        assert registry is not None
        return (
            component(registry, names[0], above=home(registry, root) if key is None else key.inner),
        )
    if key is None:
        assert registry is not None
        return (Entry(subject, "A kind of component.", names=_summaries(registry)),)
    return (_section(key),)


def preset_values(key: Key, component: str = "") -> dict[str, tuple[str, ...]]:
    """The values that presets of runs give a key, each with the presets that give it.

    Of a component's key only those count that name the component. `*/bridge` are the presets of
    that name of all models, `sd35_medium/*` all of that model.
    """
    found: dict[str, list[str]] = {}
    for name, tree in _preset_trees().items():
        value = _at(tree, key.path.split("."), component)
        if value is _NOTHING or (isinstance(value, Mapping) and "name" not in value):
            continue
        text = dump_line(value["name"] if isinstance(value, Mapping) else value)
        short = name.removeprefix("presets/").removesuffix(".yaml")
        found.setdefault(text, []).append(short)
    return {value: _summed_up(names) for value, names in found.items()}


def _summed_up(names: Sequence[str]) -> tuple[str, ...]:
    """Presets with a star in place of what they have all of."""
    left = list(names)
    everything = [each.removeprefix("presets/").removesuffix(".yaml") for each in presets()]
    parts = [each.split("/") for each in everything if "/" in each]
    stars = [(f"*/{method}", method, 1) for _, method in parts]
    stars += [(f"{model}/*", model, 0) for model, _ in parts]
    found = []
    for star, part, at in dict.fromkeys(stars):
        covered = ["/".join(each) for each in parts if each[at] == part]
        if set(covered) <= set(left):
            found.append(star)
            left = [each for each in left if each not in covered]
    return (*found, *left)


@functools.cache
def _preset_trees() -> Mapping[str, Any]:
    return {name: plain(read_file(path)) for name, path in presets().items()}


_NOTHING = object()


def _at(tree: Any, path: Sequence[str], component: str) -> Any:
    named = not component
    for step in path:
        if not isinstance(tree, Mapping) or step not in tree:
            return _NOTHING
        tree = tree[step]
        named = named or (isinstance(tree, Mapping) and tree.get("name") == component)
    return tree if named else _NOTHING
