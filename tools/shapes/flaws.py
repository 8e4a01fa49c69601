"""Scenes that fall short of their caption, edited from a right one as little as can be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random

import attrs
import torch

from flowbp.shapes.checker import satisfies
from flowbp.shapes.prompts import Prompt
from flowbp.shapes.scene import COLOURS, GAP, KINDS, MAX_SHAPES, SIZE, Scene, Shape, apart, inside
from flowbp.shapes.scene_reading import Reading
from flowbp.shapes.scene_sampling import sample_scene
from tools.shapes.corruption import corrupt, near_misses

RIGHT = 0.8
"""The score of a picture that shows what its caption says and nothing else."""
ONE_WRONG, TWO_WRONG, MISSING, SURPLUS, TOUCHING = 0.35, 0.1, 0.25, 0.55, 0.5
"""Scores with one or two wrong attributes, an object too few or too many, or two that touch."""
SPOILT, GONE, BROKEN = 0.35, 0.1, 0.0
"""Scores of the right shapes badly drawn, of none at all, and of no shape whole."""

_RADII = (8.0, 11.0)
_TRIES = 30
_BETWEEN = (0.3, 0.7)
_NEARNESS = (0.6, 1.1)


@attrs.frozen
class Flawed:
    """A flawed picture: its scene, its score under the caption it falls short of, and its own.

    Args:
        scene: what it shows.
        score: its score under the caption that it was made from.
        caption: a caption that it is right for, if any.
        blended: another scene, which differs in colours only, and its share in the picture.
        over: a scene of one more shape, which is drawn over the others.
    """

    scene: Scene
    score: float
    caption: Prompt | None = None
    blended: tuple[Scene, float] | None = None
    over: Scene | None = None

    def shows(self, prompt: Prompt) -> bool:
        """Whether the picture, or either of the two that are blended, satisfies a caption."""
        over = () if self.over is None else self.over.shapes
        scenes = (self.scene,) if self.blended is None else (self.scene, self.blended[0])
        return any(shows((*scene.shapes, *over), prompt) for scene in scenes)


def flawed(scene: Scene, prompt: Prompt, generator: torch.Generator) -> Flawed:
    """Draw a flaw of a scene that shows `prompt` exactly, which keeps all else where it is.

    In 15 of 100 draws each an object is added, one is missing, or colours that the caption leaves
    open lie between two of the palette's, where there is room for the object, more than one of
    them, or such a colour; in 10 two objects touch. Otherwise one attribute is wrong, as of
    `corrupt`, or in a quarter of them two; of captions with a relation it is the relation in half
    of these draws.
    """
    random = Random(int(torch.randint(2**62, (), generator=generator)))
    draw = random.random()
    if draw < 0.15 and (found := _with_surplus(scene, prompt, random)):
        return Flawed(found, SURPLUS)
    if 0.15 <= draw < 0.3 and len(scene.shapes) == 2 and prompt.kind != "counting":
        return Flawed(attrs.evolve(scene, shapes=(random.choice(scene.shapes),)), MISSING)
    if 0.3 <= draw < 0.45 and any(thing.colour is None for thing in prompt.objects):
        return _between_colours(scene, prompt, random)
    if 0.45 <= draw < 0.55 and (touching := _touching(scene, random)):
        return touching
    opposite = near_misses(prompt).get("relation")
    caption = opposite[0] if opposite and random.random() < 0.5 else corrupt(prompt, generator)
    # Where nothing that is added fits, a new scene takes its place.
    wrong = edited(scene, prompt, caption, random) or sample_scene(caption, generator)
    if random.random() < 0.25:
        second = corrupt(caption, generator)
        if second != prompt and not any(second in them for them in near_misses(prompt).values()):
            twice = edited(wrong, caption, second, random) or sample_scene(second, generator)
            return Flawed(twice, TWO_WRONG)
    return Flawed(wrong, ONE_WRONG, caption)


def edited(scene: Scene, prompt: Prompt, wanted: Prompt, random: Random) -> Scene | None:
    """A scene of `prompt` with as little changed as can be until it shows `wanted`.

    None where there is no room for what is to be added.
    """
    shapes: Sequence[Shape] = scene.shapes
    if wanted.count < prompt.count:
        shapes = random.sample(shapes, wanted.count)
    elif wanted.count > prompt.count:
        thing = prompt.objects[0]
        for _ in range(wanted.count - prompt.count):
            colour = thing.colour or random.choice(list(COLOURS))
            added = _placed(thing.kind, colour, shapes, random)
            if added is None:
                return None
            shapes = (*shapes, added)
    elif wanted.relation != prompt.relation:
        first, second = shapes
        shapes = (_moved(first, second), _moved(second, first))
    else:
        things = wanted.objects * wanted.count
        shapes = [
            attrs.evolve(shape, kind=thing.kind, colour=thing.colour or shape.colour)
            for shape, thing in zip(shapes, things, strict=True)
        ]
    return attrs.evolve(scene, shapes=tuple(shapes))


def shows(shapes: Sequence[Shape], prompt: Prompt) -> bool:
    """Whether shapes satisfy a caption by the checker's criterion."""
    largest_first = sorted(shapes, key=lambda shape: -shape.radius)
    return satisfies(Reading(tuple(largest_first), unknown=0), prompt)


def _between_colours(scene: Scene, prompt: Prompt, random: Random) -> Flawed:
    """One or more shapes whose colour is open take one that is not in the palette."""
    things = prompt.objects * prompt.count
    free = [place for place, thing in enumerate(things) if thing.colour is None]
    mixed = random.sample(free, random.randint(1, len(free)))
    shapes = list(scene.shapes)
    for place in mixed:
        others = [colour for colour in COLOURS if colour != shapes[place].colour]
        shapes[place] = attrs.evolve(shapes[place], colour=random.choice(others))
    other = attrs.evolve(scene, shapes=tuple(shapes))
    score = ONE_WRONG if len(mixed) == 1 else TWO_WRONG
    return Flawed(scene, score, blended=(other, random.uniform(*_BETWEEN)))


def _touching(scene: Scene, random: Random) -> Flawed | None:
    """One shape moved towards another until they touch or overlap; None where that cannot be.

    The direction from one to the other stays, and with it their relation.
    """
    if len(scene.shapes) < 2:
        return None
    moved, other = random.sample(scene.shapes, 2)
    dx, dy = moved.x - other.x, moved.y - other.y
    nearness = random.uniform(*_NEARNESS) * (moved.radius + other.radius) / math.hypot(dx, dy)
    nearer = attrs.evolve(moved, x=other.x + nearness * dx, y=other.y + nearness * dy)
    if not inside(nearer.x, nearer.y, nearer.radius):
        return None
    rest = tuple(shape for shape in scene.shapes if shape is not moved)
    return Flawed(
        attrs.evolve(scene, shapes=rest),
        TOUCHING,
        over=attrs.evolve(scene, shapes=(nearer,)),
    )


def _with_surplus(scene: Scene, prompt: Prompt, random: Random) -> Scene | None:
    if len(scene.shapes) == MAX_SHAPES:
        return None
    # One more of what is counted would be a wrong count.
    counted = {thing.kind for thing in prompt.objects} if prompt.kind == "counting" else set()
    kinds = [kind for kind in KINDS if kind not in counted]
    added = _placed(random.choice(kinds), random.choice(list(COLOURS)), scene.shapes, random)
    return None if added is None else attrs.evolve(scene, shapes=(*scene.shapes, added))


def _placed(kind: str, colour: str, others: Sequence[Shape], random: Random) -> Shape | None:
    for _ in range(_TRIES):
        radius = random.uniform(*_RADII)
        low, high = GAP + radius, SIZE - GAP - radius
        x, y = random.uniform(low, high), random.uniform(low, high)
        if all(apart(x - s.x, y - s.y, radius + s.radius) for s in others):
            return Shape(kind, colour, x, y, radius)
    return None


def _moved(shape: Shape, place: Shape) -> Shape:
    return attrs.evolve(shape, x=place.x, y=place.y, radius=place.radius)
