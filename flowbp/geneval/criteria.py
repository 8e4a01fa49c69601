"""Whether a scene shows what a task asks for."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from flowbp.geneval.geometry import relations
from flowbp.geneval.scene import Detection, Scene
from flowbp.geneval.task import Task, Wanted

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

    Args:
        task: what is asked for.
        scene: what counts of the objects that were found, see `select`.
        colour_of: tells colours; called where the task asks for one.

    Returns:
        A reason for each entry of the task that is not met.

    Example:
        >>> from flowbp.geneval.scene import select
        >>> task = Task("a photo of a dog", "single_object", [Wanted("dog", 1)])
        >>> failures(task, {}, colour_of=lambda detection: "red")
        ('1 dog wanted, 0 found',)

    Source: Ghosh et al., arXiv 2310.11513, section 3; github.com/djghosh13/geneval, its evaluation.
    """
    reasons: list[str] = []
    groups: list[_Group] = []
    for wanted in task.include:
        chosen = scene.get(wanted.name, ())[: wanted.count]
        reason = (
            _lacking(wanted, chosen)
            or _off_colour(wanted, chosen, colour_of)
            or _misplaced(wanted, chosen, groups)
        )
        groups.append(None if reason else chosen)
        if reason:
            reasons.append(reason)
    for unwanted in task.exclude:
        there = len(scene.get(unwanted.name, ()))
        if there >= unwanted.count:
            reasons.append(f"fewer than {unwanted.count} {unwanted.name} wanted, {there} found")
    return tuple(reasons)


def _lacking(wanted: Wanted, chosen: Sequence[Detection]) -> str | None:
    if len(chosen) >= wanted.count:
        return None
    return f"{wanted.count} {wanted.name} wanted, {len(chosen)} found"


def _off_colour(wanted: Wanted, chosen: Sequence[Detection], colour_of: ColourOf) -> str | None:
    if wanted.colour is None:
        return None
    seen = [colour_of(detection) for detection in chosen]
    if all(colour == wanted.colour for colour in seen):
        return None
    return f"{wanted.count} {wanted.colour} {wanted.name} wanted, {', '.join(seen)} found"


def _misplaced(wanted: Wanted, chosen: Sequence[Detection], groups: Sequence[_Group]) -> str | None:
    if wanted.position is None:
        return None
    relation, number = wanted.position
    others = groups[number]
    if others is None:
        return f"{wanted.name} wanted {relation} what is not there itself"
    for detection in chosen:
        for other in others:
            held = relations(detection.box, other.box)
            if relation not in held:
                seen = " and ".join(sorted(held)) or "in no relation"
                return f"{wanted.name} wanted {relation} {other.name}, {seen} found"
    return None
