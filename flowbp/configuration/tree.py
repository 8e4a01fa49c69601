"""Configuration data in which every value remembers where it was written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

Step = str | int
"""One step of a path: a key of a mapping or the position in a list."""


@attrs.frozen
class Tree:
    """A scalar, a list or a mapping as read from YAML, together with its origin.

    Args:
        value: a scalar (None, bool, int, float, str), a tuple of trees, or a mapping from str
            to trees.
        origin: ``file:line`` or ``command line``.

    Example:
        >>> plain(Tree({"seed": Tree(3, "run.yaml:1")}, "run.yaml:1"))
        {'seed': 3}
    """

    value: Any
    origin: str

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


def origin_of(tree: Tree, path: tuple[Step, ...]) -> str:
    """Where the value at a path was written, or its nearest parent when it was not.

    Example:
        >>> origin_of(Tree({"a": Tree(1, "x.yaml:2")}, "x.yaml:1"), ("a",))
        'x.yaml:2'
        >>> origin_of(Tree({"a": Tree(1, "x.yaml:2")}, "x.yaml:1"), ("missing",))
        'x.yaml:1'
    """
    for step in path:
        try:
            tree = tree.value[step]
        except (KeyError, IndexError, TypeError):
            break
    return tree.origin


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
