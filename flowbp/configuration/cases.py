"""Values that depend on another value: how the `by` block of a file is spelt."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import attrs

from .problems import ConfigurationError, Problem
from .tree import UNKNOWN, Step, Tree, path_text, plain

BY = "by"
_KEY = re.compile(r"[A-Za-z_][\w-]*(?:\.[A-Za-z_][\w-]*)*")
_Path = tuple[Step, ...]


@attrs.frozen
class Condition:
    """A key that decides, and the value at which a case is chosen.

    Args:
        key: dotted.
        value: its text.
        path: where the case stands in its file, for messages.
        origin: the line of the key.

    Example:
        See `layered`.
    """

    key: str
    value: str
    path: _Path
    origin: str


@attrs.frozen
class Case:
    """What a file sets where all of some conditions hold.

    Args:
        conditions: at least one.
        tree: what is set.

    Example:
        See `layered`.
    """

    conditions: tuple[Condition, ...]
    tree: Tree


@attrs.frozen
class Layer:
    """A file taken apart: what it sets in every case, and what in some.

    Args:
        plain: the file without its `by` block.
        cases: those of the block, in the order written.

    Example:
        See `layered`.
    """

    plain: Tree
    cases: tuple[Case, ...] = ()


def layered(tree: Tree) -> Layer:
    """Take the top-level block `by` of a file apart.

    It maps keys that decide to their values, and these to what is set then. A case may hold a
    block of its own; both conditions must hold then.

    Args:
        tree: as read from a file.

    Returns:
        The file without the block, and its cases.

    Raises:
        ConfigurationError: all that is misspelt in the block.

    Example:
        >>> from flowbp.configuration import read_text
        >>> text = "{method: {name: bridge}, by: {backbone.name: {sd3: {method: {active: 5}}}}}"
        >>> layer = layered(read_text(text, "bridge.yaml"))
        >>> plain(layer.plain), plain(layer.cases[0].tree)
        ({'method': {'name': 'bridge'}}, {'method': {'active': 5}})
    """
    layer, problems = taken_apart(tree)
    if problems:
        raise ConfigurationError(problems)
    return layer


def taken_apart(tree: Tree) -> tuple[Layer, tuple[Problem, ...]]:
    """The same with its problems; a case that is misspelt is left out."""
    problems: list[Problem] = []
    layer = Layer(_without_block(tree), tuple(_cases(tree, (), (), problems)))
    if problems or any(case.value is UNKNOWN for case in _blocks(tree)):
        # What the misspelt case would have set is not known.
        layer = attrs.evolve(layer, plain=attrs.evolve(layer.plain, partial=True))
    return layer, tuple(problems)


def _blocks(tree: Tree) -> Iterator[Tree]:
    block = tree.value.get(BY)
    if block is not None:
        yield block
        yield from block.value.values() if block.is_mapping else ()


def _without_block(tree: Tree) -> Tree:
    return attrs.evolve(tree, value={key: item for key, item in tree.value.items() if key != BY})


def _cases(
    tree: Tree, path: _Path, outer: tuple[Condition, ...], problems: list[Problem]
) -> Iterator[Case]:
    if BY not in tree.value:
        return
    path = (*path, BY)
    for key, cases in _entries(tree.value[BY], path, "deciding keys to their cases", problems):
        here = (*path, key)
        if not _KEY.fullmatch(key):
            message = "is no dotted key, such as backbone.name"
            problems.append(Problem(path_text(here), message, cases.origin))
            continue
        if any(condition.key == key for condition in outer):
            message = f"lies in a case of {key} already; take one of them out"
            problems.append(Problem(path_text(here), message, cases.origin))
            continue
        for value, case in _entries(cases, here, f"values of {key} to what they set", problems):
            place = (*here, value)
            if _entries(case, place, "keys to values", problems):
                conditions = (*outer, Condition(key, value, here, cases.origin))
                yield Case(conditions, _without_block(case))
                yield from _cases(case, place, conditions, problems)


def _entries(
    tree: Tree, path: _Path, what: str, problems: list[Problem]
) -> Sequence[tuple[str, Tree]]:
    if tree.is_mapping and tree.value:
        return tuple(tree.value.items())
    if tree.value is UNKNOWN:
        return ()
    message = f"must map {what}, got {plain(tree)!r}; write them below it or take it out"
    problems.append(Problem(path_text(path), message, tree.origin))
    return ()
