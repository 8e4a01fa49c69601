"""Where one box is, seen from another."""

from __future__ import annotations

import math

Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels; right and bottom are just outside, and y grows downwards."""

_SLACK = 0.1
_NOTHING = 1e-3
_DIRECTION = 0.5


def relations(box: Box, other: Box) -> frozenset[str]:
    """Where `box` is, seen from `other`: none, one or two of `RELATIONS`.

    With the offset ``o`` of the centres and the sums ``d`` of the widths and of the heights, what
    counts is ``r = sign(o) max(|o| - 0.1 d, 0)``. Boxes with all ``|r| < 0.001`` are in no
    relation; else each axis on which ``r / |o|`` is beyond ±0.5 gives one.

    Args:
        box: of the object.
        other: of the object it is seen from.

    Returns:
        The relations that hold.

    Example:
        >>> sorted(relations((0, 0, 10, 10), (100, 0, 110, 10)))
        ['left of']
        >>> sorted(relations((0, 0, 10, 10), (100, 100, 110, 110)))
        ['above', 'left of']

    Source: Ghosh et al., arXiv 2310.11513, and its evaluation's relative position.
    """
    x, y = (_offset(box, other, axis) for axis in (0, 1))
    r_x, r_y = (_beyond(box, other, axis) for axis in (0, 1))
    if abs(r_x) < _NOTHING and abs(r_y) < _NOTHING:
        return frozenset()
    length = math.hypot(x, y)
    holds = {
        "left of": r_x / length < -_DIRECTION,
        "right of": r_x / length > _DIRECTION,
        "above": r_y / length < -_DIRECTION,
        "below": r_y / length > _DIRECTION,
    }
    return frozenset(relation for relation, it_does in holds.items() if it_does)


def _offset(box: Box, other: Box, axis: int) -> float:
    return (box[axis] + box[axis + 2]) / 2 - (other[axis] + other[axis + 2]) / 2


def _beyond(box: Box, other: Box, axis: int) -> float:
    offset = _offset(box, other, axis)
    sizes = abs(box[axis + 2] - box[axis]) + abs(other[axis + 2] - other[axis])
    return math.copysign(max(abs(offset) - _SLACK * sizes, 0.0), offset)
