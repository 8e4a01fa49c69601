"""Scenes that satisfy a prompt."""

from __future__ import annotations

from random import Random

import torch

from flowbp.shapes.prompts import RELATIONS, Prompt, Wanted
from flowbp.shapes.scene import BACKGROUNDS, COLOURS, GAP, SIZE, Scene, Shape, apart

_RADII = (8.0, 11.0)
_TRIES = 8

_Box = tuple[float, float, float]


def sample_scene(prompt: Prompt, generator: torch.Generator) -> Scene:
    """Draw a scene that satisfies a prompt exactly: the objects named and no others.

    Places, sizes, the background and the colours that the prompt leaves open are random. Under a
    relation the boxes lie apart along its axis, and the other axis separates the centres less.
    The generator advances by one number per scene.
    """
    # One tensor draw seeds Python's own generator, whose scalars cost a hundredth of a tensor's.
    seed = torch.randint(2**62, (), generator=generator, device=generator.device)
    random = Random(int(seed))
    wanted = prompt.objects * prompt.count
    boxes = _place(len(wanted), random)
    while prompt.relation is not None and not _related(boxes, prompt.relation):
        boxes = _place(len(wanted), random)
    shapes = (_painted(thing, box, random) for thing, box in zip(wanted, boxes, strict=True))
    return Scene(tuple(shapes), background=random.uniform(*BACKGROUNDS))


def _painted(thing: Wanted, box: _Box, random: Random) -> Shape:
    return Shape(thing.kind, thing.colour or random.choice(tuple(COLOURS)), *box)


def _place(count: int, random: Random) -> list[_Box]:
    boxes: list[_Box] = []
    tries = 0
    while len(boxes) < count:
        # The first boxes may leave no room for the last, so a few misses start all anew.
        if tries == _TRIES * count:
            boxes, tries = [], 0
        tries += 1
        radius = random.uniform(*_RADII)
        low, high = GAP + radius, SIZE - GAP - radius
        x, y = random.uniform(low, high), random.uniform(low, high)
        if all(apart(x - a, y - b, radius + r) for a, b, r in boxes):
            boxes.append((x, y, radius))
    return boxes


def _related(boxes: list[_Box], relation: str) -> bool:
    (x0, y0, r0), (x1, y1, r1) = boxes
    axis, sign = RELATIONS[relation]
    offsets = (x0 - x1, y0 - y1)
    along = sign * offsets[axis]
    return along >= r0 + r1 + GAP and along >= abs(offsets[1 - axis])
