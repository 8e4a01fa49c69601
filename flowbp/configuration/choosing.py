"""Values that depend on another value: which cases of the `by` blocks hold."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType

from .cases import Case, Condition, Layer
from .merging import merge
from .problems import ConfigurationError, Problem, listed, nearest
from .tree import UNKNOWN, Step, Tree, along, path_text, plain

NOTHING: Mapping[str, Collection[str]] = MappingProxyType({})
"""No names are known."""


def choose(
    layers: Sequence[Layer], above: Tree, names: Mapping[str, Collection[str]] = NOTHING
) -> tuple[Tree, ...]:
    """The trees to merge: each file, followed by those of its cases that hold.

    What decides is looked up in all files and `above` merged without cases; no case may set what
    decides, so that the answer is the same after merging. Where a key of `names` is not given, none
    of its cases holds.

    Args:
        layers: the files, from left to right.
        above: what will be laid over them, such as overrides.
        names: the names that a deciding key can have, where they are known; besides them only a
            dotted path is one.

    Returns:
        Trees for `merge`, without `above`.

    Raises:
        ConfigurationError: a deciding key is neither given nor of `names`, or not text, a case is
            of a name that there is not, or sets what decides.

    Example:
        >>> from flowbp.configuration import plain, read_text
        >>> from flowbp.configuration.cases import layered
        >>> bridge = layered(read_text("{by: {model: {small: {active: 5}}}}", "bridge.yaml"))
        >>> small = layered(read_text("{model: small}", "small.yaml"))
        >>> plain(merge(*choose([bridge, small], Tree({}, "command line"))))
        {'active': 5, 'model': 'small'}
    """
    trees, problems = chosen(layers, above, names)
    if problems:
        raise ConfigurationError(problems)
    return trees


def chosen(
    layers: Sequence[Layer], above: Tree, names: Mapping[str, Collection[str]] = NOTHING
) -> tuple[tuple[Tree, ...], tuple[Problem, ...]]:
    """The same with its problems; where a case might hold or not, the trees are partial."""
    whole = merge(*(layer.plain for layer in layers), above)
    cases = [case for layer in layers for case in layer.cases]
    # Of several cases of one line, one stands for all.
    conditions = {(each.key, each.origin): each for case in cases for each in case.conditions}
    problems = [
        *_undecided(conditions.values(), whole, names),
        *_unnamed(cases, names),
        *_cascades(cases, conditions.values()),
    ]
    trees = tuple(tree for layer in layers for tree in (layer.plain, *_holding(layer, whole)))
    if problems or not all(_known(key, whole) for key, _ in conditions):
        trees = (Tree({}, trees[0].origin, partial=True), *trees)
    return trees, tuple(problems)


def _holding(layer: Layer, whole: Tree) -> Iterator[Tree]:
    for case in layer.cases:
        if all(_decision(each.key, whole) == each.value for each in case.conditions):
            yield case.tree


def _known(key: str, whole: Tree) -> bool:
    passed = list(along(whole, tuple(key.split("."))))
    there = len(passed) > key.count(".") + 1
    return passed[-1].value is not UNKNOWN and (there or not any(each.partial for each in passed))


def _decision(key: str, whole: Tree) -> str | None:
    for step in key.split("."):
        if not whole.is_mapping or step not in whole.value:
            return None
        whole = whole.value[step]
    return None if whole.value is None else str(whole.value)


def _undecided(
    conditions: Iterable[Condition], whole: Tree, names: Collection[str]
) -> Iterator[Problem]:
    for condition in conditions:
        message = _why_undecided(condition.key, whole, names)
        if message:
            yield Problem(path_text(condition.path), message, condition.origin)


def _unnamed(cases: Iterable[Case], names: Mapping[str, Collection[str]]) -> Iterator[Problem]:
    conditions = (condition for case in cases for condition in case.conditions)
    for condition in dict.fromkeys(conditions):
        known = names.get(condition.key)
        if known is not None and condition.value not in known and ":" not in condition.value:
            close = nearest(condition.value, known)
            yield Problem(
                path_text((*condition.path, condition.value)),
                f"no {condition.key} is called {condition.value!r}. {close}Names: {listed(known)}",
                condition.origin,
            )


def _why_undecided(key: str, whole: Tree, names: Collection[str]) -> str:
    if not _known(key, whole):
        return ""
    tree, steps = whole, key.split(".")
    for depth, step in enumerate(steps):
        if tree.value is None:
            return ""
        if not tree.is_mapping or step not in tree.value:
            if key in names:
                return ""
            close = nearest(key, _texts(whole))
            return f"decides on {key}, which nothing gives. {close}Correct the key, or give it"
        tree = tree.value[step]
        if depth == len(steps) - 1 and not isinstance(tree.value, str | None):
            return (
                f"decides on {key}, which is {plain(tree)!r} in {tree.origin}; only text decides, "
                f"such as {key}.name of a component"
            )
    return ""


def _texts(tree: Tree, path: tuple[Step, ...] = ()) -> Iterator[str]:
    if tree.is_mapping:
        for key, item in tree.value.items():
            yield from _texts(item, (*path, key))
    elif isinstance(tree.value, str):
        yield path_text(path)


def _cascades(cases: Iterable[Case], conditions: Iterable[Condition]) -> Iterator[Problem]:
    deciding = {condition.key: condition.origin for condition in conditions}
    for case in cases:
        last = case.conditions[-1]
        for path, origin in _leaves(case.tree, ()):
            for key, decided in deciding.items():
                if _overlap(path, tuple(key.split("."))):
                    message = f"sets {key}, on which the block in {decided} decides"
                    yield Problem(
                        path_text((*last.path, last.value, *path)),
                        f"{message}; set it outside of `by`",
                        origin,
                    )


def _leaves(tree: Tree, path: tuple[Step, ...]) -> Iterator[tuple[tuple[Step, ...], str]]:
    if tree.is_mapping and tree.value:
        for key, item in tree.value.items():
            yield from _leaves(item, (*path, key))
    elif path:
        yield path, tree.origin


def _overlap(path: tuple[Step, ...], key: tuple[Step, ...]) -> bool:
    # Another name replaces a component whole, and with it what decides inside.
    path = path[:-1] if path[-1] == "name" else path
    shared = min(len(path), len(key))
    return path[:shared] == key[:shared]
