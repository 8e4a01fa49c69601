"""Configuration data in which every value remembers where it was written."""

from __future__ import annotations

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
    """A value as it was typed on the command line, before anything read it.

    Args:
        text: without the white space around it.
        value: what YAML reads, `UNKNOWN` if it is not YAML.
        refusal: why it is none; empty if it is.

    Example:
        >>> Typed("2026", 2026).text
        '2026'
    """

    text: str
    value: Any
    refusal: str = ""


class PartialMapping(dict[str, Any]):
    """A plain mapping in which keys may lack, because they could not be read."""


@attrs.frozen
class Tree:
    """A scalar, a list or a mapping as read from YAML, together with its origin.

    Args:
        value: a scalar (None, bool, int, float, str), a tuple of trees, a mapping from str to
            trees, or `UNKNOWN`.
        origin: ``file:line`` or ``command line``.
        typed: how it was typed, which is what a text or path takes.
        partial: whether keys may lack, here and below, because they could not be read.

    Example:
        >>> plain(Tree({"seed": Tree(3, "run.yaml:1")}, "run.yaml:1"))
        {'seed': 3}
    """

    value: Any
    origin: str
    typed: Typed | None = attrs.field(default=None, repr=False)
    partial: bool = attrs.field(default=False, repr=False)

    @property
    def is_mapping(self) -> bool:
        """Whether the value is a mapping, which is what merges."""
        return isinstance(self.value, Mapping)


def tree_of(data: Any, origin: str) -> Tree:
    """Wrap plain data, giving every value in it the same origin.

    Args:
        data: nested mappings with str keys, lists or tuples, and scalars.
        origin: what error messages shall call its source.

    Example:
        >>> tree_of([1], "a test")
        Tree(value=(Tree(value=1, origin='a test'),), origin='a test')
    """
    if isinstance(data, Mapping):
        return Tree({key: tree_of(item, origin) for key, item in data.items()}, origin)
    if isinstance(data, list | tuple):
        return Tree(tuple(tree_of(item, origin) for item in data), origin)
    return Tree(data, origin)


def plain(tree: Tree) -> Any:
    """Plain dicts, lists and scalars, without the origins: the inverse of `tree_of`.

    Example:
        >>> plain(tree_of({"a": [1, 2]}, "a test"))
        {'a': [1, 2]}
    """
    if isinstance(tree.value, Mapping):
        return {key: plain(item) for key, item in tree.value.items()}
    if isinstance(tree.value, tuple):
        return [plain(item) for item in tree.value]
    return tree.value


def marked(tree: Tree, *, partial: bool = False) -> Any:
    """The same, but that a value that was typed is a `Typed`, and what lacks keys a mapping apart.

    Args:
        tree: any.
        partial: whether it is below such a mapping.

    Example:
        >>> type(marked(Tree({}, "a test", partial=True))).__name__
        'PartialMapping'
    """
    partial = partial or tree.partial
    if tree.typed is not None:
        return tree.typed
    if isinstance(tree.value, Mapping):
        kind = PartialMapping if partial else dict
        return kind({key: marked(item, partial=partial) for key, item in tree.value.items()})
    if isinstance(tree.value, tuple):
        return [marked(item, partial=partial) for item in tree.value]
    return tree.value


def origin_of(tree: Tree, path: tuple[Step, ...]) -> str:
    """Where the value at a path was written, or its nearest parent when it was not.

    Example:
        >>> origin_of(Tree({"a": Tree(1, "x.yaml:2")}, "x.yaml:1"), ("a",))
        'x.yaml:2'
        >>> origin_of(Tree({"a": Tree(1, "x.yaml:2")}, "x.yaml:1"), ("missing",))
        'x.yaml:1'
    """
    return list(along(tree, path))[-1].origin


def along(tree: Tree, path: tuple[Step, ...]) -> Iterator[Tree]:
    """A tree and those below it on a path, as far as there are any.

    Example:
        >>> [each.origin for each in along(Tree({"a": Tree(1, "x:2")}, "x:1"), ("a", "b"))]
        ['x:1', 'x:2']
    """
    yield tree
    for step in path:
        try:
            tree = tree.value[step]
        except (KeyError, IndexError, TypeError):
            return
        yield tree


def has_unknown(tree: Tree) -> bool:
    """Whether anything in a tree could not be read.

    Example:
        >>> has_unknown(tree_of({"a": [UNKNOWN]}, "a test"))
        True
    """
    if tree.is_mapping:
        return any(map(has_unknown, tree.value.values()))
    if isinstance(tree.value, tuple):
        return any(map(has_unknown, tree.value))
    return tree.value is UNKNOWN


def forgotten(tree: Tree, path: tuple[str, ...]) -> Tree:
    """A tree in which the value at a path is `UNKNOWN`.

    Args:
        tree: any.
        path: of mappings' keys that are there, but maybe the last.

    Example:
        >>> plain(forgotten(tree_of({"a": {"b": 1}}, "a test"), ("a", "b")))
        {'a': {'b': what could not be read}}
    """
    if not path:
        return Tree(UNKNOWN, tree.origin)
    key, *rest = path
    below = tree.value.get(key, Tree(UNKNOWN, tree.origin))
    return attrs.evolve(tree, value={**tree.value, key: forgotten(below, tuple(rest))})


def path_text(path: tuple[Step, ...]) -> str:
    """A path as it is written in messages and overrides.

    Example:
        >>> path_text(("rewards", 0, "weight"))
        'rewards[0].weight'
    """
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text
