"""Several trees into one: overlays from left to right."""

from __future__ import annotations

import functools

import attrs

from .tree import UNKNOWN, Tree


def merge(*trees: Tree) -> Tree:
    """Lay trees over each other, the later over the earlier.

    Mappings merge key by key. A component whose `name` changes is replaced whole, because its
    other keys belong to the one that is gone; so are lists and scalars.

    Args:
        trees: any number of trees; none make an empty mapping.

    Returns:
        the merged tree; every value keeps the origin of the tree that gave it.

    Example:
        >>> from flowbp.configuration import plain, tree_of
        >>> base = tree_of({"method": {"name": "lagrange", "order": 3}, "seed": 1}, "base.yaml")
        >>> over = tree_of({"method": {"name": "bridge", "alpha": 0.5}}, "over.yaml")
        >>> plain(merge(base, over))
        {'method': {'name': 'bridge', 'alpha': 0.5}, 'seed': 1}
    """
    return functools.reduce(_lay, trees) if trees else Tree({}, "defaults")


def without_nulls(tree: Tree, *path: str) -> Tree:
    """Take away what is null in a mapping of a tree, by which a later file removes an entry.

    Args:
        tree: merged.
        path: of the mapping, key by key; where there is none, nothing is done.

    Returns:
        The tree without these entries.

    Example:
        >>> from flowbp.configuration import plain, tree_of
        >>> tree = tree_of({"metrics": {"mine": None, "taste": {"name": "pickscore"}}}, "a.yaml")
        >>> plain(without_nulls(tree, "metrics"))
        {'metrics': {'taste': {'name': 'pickscore'}}}
    """
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
