"""In which order metrics are loaded."""

from __future__ import annotations

from collections.abc import Mapping


def sharing_order(towers: Mapping[str, frozenset[str]]) -> list[str]:
    """Metrics in an order in which those that share a model follow each other.

    Each is followed by the one that shares most with those before it and is configured first, so
    that models which several read are alive for as short as may be.

    Args:
        towers: what models each metric reads, by its label.

    Returns:
        The labels; in their own order where nothing is shared.

    Example:
        >>> sharing_order({"a": frozenset("x"), "b": frozenset("y"), "c": frozenset("xz")})
        ['a', 'c', 'b']
    """
    left, order = list(towers), []
    open_towers: frozenset[str] = frozenset()
    while left:
        best = max(left, key=lambda label: len(towers[label] & open_towers))
        left.remove(best)
        order.append(best)
        wanted = frozenset[str]().union(*(towers[label] for label in left))
        open_towers = (open_towers | towers[best]) & wanted
    return order
