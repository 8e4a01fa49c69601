"""Whether pictures show what their prompts ask: the held-out judge, never a training signal."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import attrs
import torch
from torch import Tensor

from flowbp.shapes.prompts import RELATIONS, Prompt, Wanted, parse
from flowbp.shapes.scene import Shape
from flowbp.shapes.scene_reading import Reading, read_scenes

_SLACK = 0.1
_LEAST_PART = 0.5


def satisfies(reading: Reading, prompt: Prompt) -> bool:
    """Judge what was read from a picture by GenEval's criterion for the prompt's kind.

    - single_object: at least one of the shape;
    - two_object: at least one of each shape;
    - counting: exactly that many objects of the shape (and colour, where one is named);
    - colors, color_attr: the largest object of each shape has its colour;
    - position: the largest objects that fit the two descriptions stand in the relation. With o
      the offset of their centres and r = sign(o) max(|o| − 0.1 (side₁ + side₂), 0) per axis, the
      part of r / ‖o‖ along the relation exceeds 1/2.

    Objects that the prompt does not name are no fault.
    """
    return _CRITERIA[prompt.kind](reading.shapes, prompt)


def check(images: Tensor, prompts: Sequence[Prompt]) -> Tensor:
    """Judge B pictures (B, 3, 64, 64) by their prompts: (B,) bool, see `satisfies`."""
    if len(prompts) != len(images):
        raise ValueError(
            f"`prompts` must be one for each of the {len(images)} images, got {len(prompts)}"
        )
    verdicts = map(satisfies, read_scenes(images), prompts)
    return torch.tensor(list(verdicts), dtype=torch.bool, device=images.device)


@attrs.frozen
class ShapesChecker:
    """The checker as a judge: called with pictures and captions, it returns 1 or 0 for each.

    Example:
        >>> from flowbp.shapes.render import render
        >>> from flowbp.shapes.scene import Scene
        >>> scene = Scene((Shape("circle", "red", 20.0, 32.0, 9.0),), background=0.1)
        >>> ShapesChecker()(render([scene, scene]), ["a red circle", "two circles"])
        tensor([1., 0.])
    """

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Verdicts (B,) float32, on the device of the pictures (B, 3, 64, 64) in [0, 1]."""
        return check(images, [parse(text) for text in prompts]).float()


def _present(shapes: Sequence[Shape], prompt: Prompt) -> bool:
    return all(_matching(shapes, thing) for thing in prompt.objects)


def _counted(shapes: Sequence[Shape], prompt: Prompt) -> bool:
    return len(_matching(shapes, prompt.objects[0])) == prompt.count


def _coloured(shapes: Sequence[Shape], prompt: Prompt) -> bool:
    for thing in prompt.objects:
        alike = _matching(shapes, Wanted(thing.kind))
        if not alike or alike[0].colour != thing.colour:
            return False
    return True


def _positioned(shapes: Sequence[Shape], prompt: Prompt) -> bool:
    first, second = (_matching(shapes, thing) for thing in prompt.objects)
    if not first or not second or prompt.relation is None:
        return False
    axis, sign = RELATIONS[prompt.relation]
    offset = (first[0].x - second[0].x, first[0].y - second[0].y)
    slack = _SLACK * 2 * (first[0].radius + second[0].radius)
    # Two centres that coincide stand in no relation; the slack then also exceeds the offset.
    return sign * offset[axis] - slack > _LEAST_PART * math.hypot(*offset)


def _matching(shapes: Sequence[Shape], thing: Wanted) -> list[Shape]:
    """The objects that fit a description, the largest first as in the reading."""
    return [
        shape
        for shape in shapes
        if shape.kind == thing.kind and thing.colour in (None, shape.colour)
    ]


_CRITERIA: Mapping[str, Callable[[Sequence[Shape], Prompt], bool]] = MappingProxyType(
    {
        "single_object": _present,
        "two_object": _present,
        "counting": _counted,
        "colors": _coloured,
        "position": _positioned,
        "color_attr": _coloured,
    }
)
