"""Captions that are wrong in exactly one attribute."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from types import MappingProxyType

import attrs
import torch

from flowbp.shapes.prompts import COUNTS, RELATIONS, Prompt, Wanted, is_held_out
from flowbp.shapes.scene import COLOURS, KINDS

ATTRIBUTES = ("shape", "colour", "count", "relation", "binding")
"""What of a caption can be wrong; the binding is which object has which colour."""

_NAMED = {direction: name for name, direction in RELATIONS.items()}
_OPPOSITE = {name: _NAMED[axis, -sign] for name, (axis, sign) in RELATIONS.items()}


def corrupt(prompt: Prompt, generator: torch.Generator) -> Prompt:
    """Draw a caption of the same wording that is wrong in exactly one attribute.

    The attribute is drawn first, evenly among those that the prompt has, then its new value; a
    relation turns into its opposite. A training prompt turns into a training prompt, so that
    training on wrong captions never shows a held-out one.
    """
    first, second = torch.rand(2, generator=generator, device=generator.device).tolist()
    attributes = tuple(near_misses(prompt).values())
    options = attributes[int(first * len(attributes))]
    return options[int(second * len(options))]


@cache
def near_misses(prompt: Prompt) -> Mapping[str, tuple[Prompt, ...]]:
    """Every caption that `corrupt` may draw, by the attribute that is wrong, if there is any."""
    wrong = (_shapes(prompt), _colours(prompt), _counts(prompt), _relations(prompt), _swaps(prompt))
    allowed = {
        attribute: tuple(each for each in options if is_held_out(prompt) or not is_held_out(each))
        for attribute, options in zip(ATTRIBUTES, wrong, strict=True)
    }
    return MappingProxyType({name: options for name, options in allowed.items() if options})


def _shapes(prompt: Prompt) -> Iterator[Prompt]:
    taken = {thing.kind for thing in prompt.objects}
    for place, thing in enumerate(prompt.objects):
        for kind in KINDS:
            if kind not in taken:
                yield _with_object(prompt, place, attrs.evolve(thing, kind=kind))


def _colours(prompt: Prompt) -> Iterator[Prompt]:
    # The two objects of `color_attr` differ in colour, those of `position` need not.
    taken = {thing.colour for thing in prompt.objects} if prompt.kind == "color_attr" else set()
    for place, thing in enumerate(prompt.objects):
        for colour in COLOURS:
            if thing.colour is not None and colour not in {thing.colour, *taken}:
                yield _with_object(prompt, place, attrs.evolve(thing, colour=colour))


def _counts(prompt: Prompt) -> Iterator[Prompt]:
    if prompt.kind == "counting":
        for count in COUNTS:
            if count != prompt.count:
                yield attrs.evolve(prompt, count=count)


def _relations(prompt: Prompt) -> Iterator[Prompt]:
    if prompt.relation is not None:
        yield attrs.evolve(prompt, relation=_OPPOSITE[prompt.relation])


def _swaps(prompt: Prompt) -> Iterator[Prompt]:
    if len({thing.colour for thing in prompt.objects}) == 2:
        first, second = prompt.objects
        swapped = (Wanted(first.kind, second.colour), Wanted(second.kind, first.colour))
        yield attrs.evolve(prompt, objects=swapped)


def _with_object(prompt: Prompt, place: int, thing: Wanted) -> Prompt:
    objects = (*prompt.objects[:place], thing, *prompt.objects[place + 1 :])
    return attrs.evolve(prompt, objects=objects)
