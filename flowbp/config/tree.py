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


@attrs.frozen
class Tree:
    """A scalar, a tuple or a mapping of trees, or `UNKNOWN`, with its origin ``file:line``."""

    value: Any
    origin: str
    # How it was typed, which is what a text or path takes.
    typed: Typed | None = attrs.field(default=None, repr=False)
    # Whether keys may be missing, here and below, because they could not be read.
    partial: bool = attrs.field(default=False, repr=False)

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
    """The same with `Typed` for what was typed and `PartialMapping` for what may lack keys."""
    partial = partial or tree.partial
    if tree.typed is not None:
        return tree.typed
    if isinstance(tree.value, Mapping):
        kind = PartialMapping if partial else dict
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
    other keys belong to the one that is gone; so are lists and scalars.
    """
    return functools.reduce(_lay, trees) if trees else Tree({}, "defaults")


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


def _lay(below: Tree, above: Tree) -> Tree:
    if below.value is UNKNOWN and above.is_mapping:
        # What it would have been laid over is not known.
        return attrs.evolve(above, partial=True)
    if not (below.is_mapping and above.is_mapping) or _renamed(below, above):
        return above
    merged = dict(below.value)
    for key, item in above.value.items():
        merged[key] = _lay(merged[key], item) if key in merged else item
    return Tree(merged, below.origin, partial=below.partial or above.partial)


def _renamed(below: Tree, above: Tree) -> bool:
    names = [tree.value["name"].value for tree in (below, above) if "name" in tree.value]
    return len(names) == 2 and names[0] != names[1]
