"""Whether the objects found in a picture are what a task asks for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import attrs
from torch import Tensor

from flowbp.evaluation.metrics.geneval.task import Task, Wanted

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

    Source: Ghosh et al., arXiv 2310.11513, and its evaluation's relative position.
    """
    offsets, beyond = [], []
    for axis in (0, 1):
        offset = (box[axis] + box[axis + 2]) / 2 - (other[axis] + other[axis + 2]) / 2
        sizes = abs(box[axis + 2] - box[axis]) + abs(other[axis + 2] - other[axis])
        offsets.append(offset)
        beyond.append(math.copysign(max(abs(offset) - _SLACK * sizes, 0.0), offset))
    if max(map(abs, beyond)) < _NOTHING:
        return frozenset()
    x, y = (each / math.hypot(*offsets) for each in beyond)
    holds = {
        "left of": x < -_DIRECTION,
        "right of": x > _DIRECTION,
        "above": y < -_DIRECTION,
        "below": y > _DIRECTION,
    }
    return frozenset(relation for relation, it_does in holds.items() if it_does)


MOST = 16
"""Objects of a class that are looked at."""

Scene = Mapping[str, tuple["Detection", ...]]
"""Detections by class, most confident first."""


@attrs.frozen(eq=False)
class Detection:
    """An object that a detector found."""

    name: str
    score: float
    box: Box
    mask: Tensor | None = attrs.field(default=None, repr=False)


Detector = Callable[[Tensor], Sequence[Sequence[Detection]]]
"""Pictures (B, 3, H, W) in [0, 1] to the objects in each of them."""


def threshold(kind: str) -> float:
    """How sure a detector must be for an object to count."""
    return 0.9 if kind == "counting" else 0.3


def select(detections: Iterable[Detection], *, above: float, most: int = MOST) -> Scene:
    """The objects that count."""
    scene: dict[str, list[Detection]] = {}
    for detection in sorted(detections, key=lambda found: -found.score):
        if detection.score > above:
            scene.setdefault(detection.name, []).append(detection)
    return {name: tuple(found[:most]) for name, found in scene.items()}


ColourOf = Callable[[Detection], str]
"""The colour of an object, one of `COLOURS`."""

_Group = tuple[Detection, ...] | None


def failures(task: Task, scene: Scene, *, colour_of: ColourOf) -> tuple[str, ...]:
    """What a scene lacks for a task; a picture passes without any.

    ==============  ===========================================================================
    single_object   at least one
    two_object      at least one of each
    counting        as many as asked for and no more, from the objects of a score above 0.9
    colors          the surest one is of the colour
    position        both are there, and the relation holds between the surest ones
    color_attr      both are there, the surest ones each of its own colour
    ==============  ===========================================================================

    Of an entry that asks for n objects, all of the n surest must be of the colour and in the
    relation. An entry whose position is seen from one that failed fails, too.

    Source: Ghosh et al., arXiv 2310.11513, section 3; github.com/djghosh13/geneval, its evaluation.
    """
    reasons: list[str] = []
    groups: list[_Group] = []
    for wanted in task.include:
        chosen = scene.get(wanted.name, ())[: wanted.count]
        reason = _shortcoming(wanted, chosen, groups, colour_of)
        groups.append(None if reason else chosen)
        if reason:
            reasons.append(reason)
    for unwanted in task.exclude:
        there = len(scene.get(unwanted.name, ()))
        if there >= unwanted.count:
            reasons.append(f"fewer than {unwanted.count} {unwanted.name} wanted, {there} found")
    return tuple(reasons)


def _shortcoming(
    wanted: Wanted, chosen: Sequence[Detection], groups: Sequence[_Group], colour_of: ColourOf
) -> str:
    """What the surest objects of a class lack for an entry; empty if nothing."""
    count, name = wanted.count, wanted.name
    if len(chosen) < count:
        return f"{count} {name} wanted, {len(chosen)} found"
    if wanted.colour is not None:
        seen = [colour_of(detection) for detection in chosen]
        if any(colour != wanted.colour for colour in seen):
            return f"{count} {wanted.colour} {name} wanted, {', '.join(seen)} found"
    if wanted.position is None:
        return ""
    relation, number = wanted.position
    others = groups[number]
    if others is None:
        return f"{name} wanted {relation} what is not there itself"
    for detection in chosen:
        for other in others:
            held = relations(detection.box, other.box)
            if relation not in held:
                seen_in = " and ".join(sorted(held)) or "in no relation"
                return f"{name} wanted {relation} {other.name}, {seen_in} found"
    return ""
