"""From scenes to pictures."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from flowbp.shapes.geometry import coverage
from flowbp.shapes.scene import COLOURS, KINDS, SIZE, Scene

_CHUNK = 256


def render(scenes: Sequence[Scene], *, device: torch.device | str = "cpu") -> Tensor:
    """Draw scenes, anti-aliased.

    picture = background + Σ_shapes cover · (colour − background)

    Args:
        scenes: B scenes.
        device: where to draw and to leave the pictures.

    Returns:
        (B, 3, 64, 64) float32 in [0, 1].

    Example:
        >>> from flowbp.shapes.scene import Scene, Shape
        >>> scene = Scene((Shape("square", "white", 32.0, 32.0, 9.0),), background=0.1)
        >>> picture = render([scene])[0]
        >>> [round(value, 2) for value in picture[:, 32, 32].tolist()], picture[0, 0, 0].item()
        ([0.96, 0.96, 0.96], 0.10000000149011612)
    """
    pictures = torch.empty(len(scenes), 3, SIZE, SIZE, device=device)
    # Small chunks stay in the processor's cache: three times the speed of one large batch.
    for start in range(0, len(scenes), _CHUNK):
        _draw(scenes[start : start + _CHUNK], pictures[start : start + _CHUNK])
    return pictures


def _draw(scenes: Sequence[Scene], pictures: Tensor) -> None:
    device = pictures.device
    grey = torch.tensor([scene.background for scene in scenes], device=device)
    pictures.copy_(grey[:, None, None, None].expand_as(pictures))
    for kind in KINDS:
        drawn = [
            (owner, shape)
            for owner, scene in enumerate(scenes)
            for shape in scene.shapes
            if shape.kind == kind
        ]
        if not drawn:
            continue
        owner = torch.tensor([owner for owner, _ in drawn], device=device)
        numbers = torch.tensor(
            [(shape.x, shape.y, shape.radius, *COLOURS[shape.colour]) for _, shape in drawn],
            device=device,
        )
        cover = coverage(kind, *numbers[:, :3].unbind(1))
        contrast = numbers[:, 3:] - grey[owner, None]
        pictures.index_add_(0, owner, cover[:, None] * contrast[:, :, None, None])
