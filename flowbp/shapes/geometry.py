"""The four ideal shapes: how much of each pixel they cover, their areas and their centroids."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import attrs
import torch
from torch import Tensor

from flowbp.shapes.scene import SIZE

_SQUARE = 0.9
_TRIANGLE = 0.9
_CROSS = 0.36


@attrs.frozen
class Outline:
    """The form of one kind of shape, for a box of half-side 1.

    Args:
        distance: signed distance to the edge, negative inside, from the pixel's offsets dx
            (n, 1, W) and dy (n, H, 1) to the box's centre and the radius (n, 1, 1).
        area: the area.
        centroid: how far the centroid lies below the box's centre.
    """

    distance: Callable[[Tensor, Tensor, Tensor], Tensor]
    area: float
    centroid: float


def _circle(dx: Tensor, dy: Tensor, radius: Tensor) -> Tensor:
    return (dx.square() + dy.square()).sqrt_().sub_(radius)


def _square(dx: Tensor, dy: Tensor, radius: Tensor) -> Tensor:
    return torch.maximum(dx.abs(), dy.abs()).sub_(_SQUARE * radius)


def _triangle(dx: Tensor, dy: Tensor, radius: Tensor) -> Tensor:
    slope = 2 * _TRIANGLE
    flank = (slope * dx.abs() - (dy + _TRIANGLE * radius)).div_(math.hypot(slope, 1))
    return torch.maximum(flank, dy - _TRIANGLE * radius)


def _cross(dx: Tensor, dy: Tensor, radius: Tensor) -> Tensor:
    across, along = dx.abs(), dy.abs()
    width = _CROSS * radius
    upright = torch.maximum(across - width, along - radius)
    return torch.minimum(upright, torch.maximum(across - radius, along - width))


OUTLINES: Mapping[str, Outline] = MappingProxyType(
    {
        "circle": Outline(_circle, math.pi, 0.0),
        "square": Outline(_square, 4 * _SQUARE**2, 0.0),
        "triangle": Outline(_triangle, 2 * _TRIANGLE, _TRIANGLE / 3),
        "cross": Outline(_cross, 8 * _CROSS - 4 * _CROSS**2, 0.0),
    }
)
"""The form of every kind of shape."""


def coverage(kind: str, x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
    """The part of each pixel that a shape covers, anti-aliased by its signed distance d.

    cover = clamp(1/2 − d, 0, 1)

    Args:
        kind: one of `KINDS`.
        x: (n,) the boxes' centres from the left, in pixels.
        y: (n,) the boxes' centres from the top, in pixels.
        radius: (n,) half the boxes' sides, in pixels.

    Returns:
        (n, 64, 64) in [0, 1], of the dtype and on the device of `x`.

    Raises:
        KeyError: for an unknown kind.

    Example:
        >>> at, radius = torch.tensor([32.0]), torch.tensor([9.0])
        >>> cover = coverage("circle", at, at, radius)
        >>> cover.shape, round(cover.sum().item() / (math.pi * 9**2), 2)
        (torch.Size([1, 64, 64]), 1.0)
    """
    grid = torch.arange(SIZE, dtype=x.dtype, device=x.device) + 0.5
    dx = (grid - x[:, None])[:, None, :]
    dy = (grid - y[:, None])[:, :, None]
    return OUTLINES[kind].distance(dx, dy, radius[:, None, None]).neg_().add_(0.5).clamp_(0, 1)
