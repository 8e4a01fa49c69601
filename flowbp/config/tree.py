"""Configuration data in which every value remembers where it was written."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any, Final

import attrs

Step = str | int
"""One step of a path: a key of a mapping or the position in a list."""


class _Unknown:
    def __repr__(self) -> str:
        return "what could not be read"


UNKNOWN: Final = _Unknown()
"""In place of a value that could not be read, and whose problem is reported already."""


@attrs.frozen
class Typed:
    """A value as it was typed on the command line, before anything read it."""

    text: str
    # What YAML reads; `UNKNOWN` if it is not YAML, and then why.
    value: Any
    refusal: str = ""


class PartialMapping(dict[str, Any]):
    """A plain mapping from which keys may be missing, because they could not be read."""


class NamedMapping(dict[str, Any]):
    """A plain mapping whose `name` was written as a text in its place, for a component alone."""


@attrs.frozen
class Tree:
    """A scalar, a tuple or a mapping of trees, or `UNKNOWN`, with its origin ``file:line``."""

    value: Any
    origin: str
    # How it was typed, which is what a text or path takes.
    typed: Typed | None = attrs.field(default=None, repr=False)
    # Whether keys may be missing, here and below, because they could not be read.
    partial: bool = attrs.field(default=False, repr=False)
    # Whether the `name` of a mapping was written as a text in its place.
    named: bool = attrs.field(default=False, repr=False)
    # Whether a null cleared what was there before, and so clears what this is laid over.
    alone: bool = attrs.field(default=False, repr=False)

    @property
    def is_mapping(self) -> bool:
        """Whether the value is a mapping, which is what merges."""
        return isinstance(self.value, Mapping)


def tree_of(data: Any, origin: str) -> Tree:
    """Wrap plain data, giving every value in it the same origin."""
    if isinstance(data, Mapping):
        return Tree({key: tree_of(item, origin) for key, item in data.items()}, origin)
    if isinstance(data, list | tuple):
        return Tree(tuple(tree_of(item, origin) for item in data), origin)
    return Tree(data, origin)


def plain(tree: Tree) -> Any:
    """Plain dicts, lists and scalars, without the origins: the inverse of `tree_of`."""
    if isinstance(tree.value, Mapping):
        return {key: plain(item) for key, item in tree.value.items()}
    if isinstance(tree.value, tuple):
        return [plain(item) for item in tree.value]
    return tree.value


def structuring_input(tree: Tree, *, partial: bool = False) -> Any:
    """The same with `Typed` for what was typed, and `PartialMapping` or `NamedMapping`."""
    partial = partial or tree.partial
    if tree.typed is not None:
        return tree.typed
    if isinstance(tree.value, Mapping):
        kind = PartialMapping if partial else NamedMapping if tree.named else dict
        return kind(
            {key: structuring_input(item, partial=partial) for key, item in tree.value.items()}
        )
    if isinstance(tree.value, tuple):
        return [structuring_input(item, partial=partial) for item in tree.value]
    return tree.value


def origin_of(tree: Tree, path: tuple[Step, ...]) -> str:
    """Where the value at a path was written, or its nearest parent when it was not."""
    return list(trees_along(tree, path))[-1].origin


def trees_along(tree: Tree, path: tuple[Step, ...]) -> Iterator[Tree]:
    """A tree and those below it on a path, as far as there are any."""
    yield tree
    for step in path:
        try:
            tree = tree.value[step]
        except (KeyError, IndexError, TypeError):
            return
        yield tree


def has_unknown(tree: Tree) -> bool:
    """Whether anything in a tree could not be read."""
    if tree.is_mapping:
        return any(map(has_unknown, tree.value.values()))
    if isinstance(tree.value, tuple):
        return any(map(has_unknown, tree.value))
    return tree.value is UNKNOWN


def with_unknown(tree: Tree, path: tuple[str, ...]) -> Tree:
    """A tree in which the value at a path is `UNKNOWN`."""
    if not path:
        return Tree(UNKNOWN, tree.origin)
    key, *rest = path
    below = tree.value.get(key, Tree(UNKNOWN, tree.origin))
    return attrs.evolve(tree, value={**tree.value, key: with_unknown(below, tuple(rest))})


def path_text(path: tuple[Step, ...]) -> str:
    """A path as it is written in messages and overrides."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def merge(*trees: Tree) -> Tree:
    """Lay trees over each other, the later over the earlier.

    Mappings merge key by key. A component whose `name` changes is replaced whole, because its
    other keys belong to the one that is gone; so are lists and scalars. A text and a mapping merge
    where the text is the component's name. A mapping over null stays alone, whatever is below it.
    """
    return functools.reduce(_lay, trees) if trees else Tree({}, "defaults")


def merge_every_key(*trees: Tree) -> Tree:
    """The same of overrides: of a component whose `name` changes the other keys stay."""
    return functools.reduce(functools.partial(_lay, every_key=True), trees)


def replaced(below: Tree, above: Tree) -> Tree:
    """What is written in the place of something, and stays alone if that was null."""
    cleared = below.value is None or below.alone
    return attrs.evolve(above, alone=True) if cleared else above


def without_nulls(tree: Tree, *path: str) -> Tree:
    """Remove the null entries of the mapping at a path: a later file removes an entry so."""
    if not tree.is_mapping:
        return tree
    if not path:
        kept = {key: each for key, each in tree.value.items() if each.value is not None}
        return attrs.evolve(tree, value=kept)
    key, *rest = path
    if key not in tree.value:
        return tree
    below = without_nulls(tree.value[key], *rest)
    return attrs.evolve(tree, value={**tree.value, key: below})


def _lay(below: Tree, above: Tree, *, every_key: bool = False) -> Tree:
    if above.alone:
        return above
    if below.value is UNKNOWN and above.is_mapping:
        # What it would have been laid over is not known.
        return attrs.evolve(above, partial=True)
    below, above = _by_name(below, above), _by_name(above, below)
    if not (below.is_mapping and above.is_mapping) or (_renamed(below, above) and not every_key):
        return replaced(below, above)
    merged = dict(below.value)
    for key, item in above.value.items():
        merged[key] = _lay(merged[key], item, every_key=every_key) if key in merged else item
    return Tree(
        merged,
        below.origin,
        partial=below.partial or above.partial,
        named=below.named or above.named,
        alone=below.alone,
    )


def _by_name(tree: Tree, other: Tree) -> Tree:
    """A text that merges with a mapping, as the `name` that it then is."""
    if not (isinstance(tree.value, str) and other.is_mapping):
        return tree
    return Tree({"name": tree}, tree.origin, named=True)


def _renamed(below: Tree, above: Tree) -> bool:
    names = [tree.value["name"].value for tree in (below, above) if "name" in tree.value]
    return len(names) == 2 and names[0] != names[1]
