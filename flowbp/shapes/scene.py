"""The contents of a picture: coloured shapes on a dark background, as frozen values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import combinations
from types import MappingProxyType

import attrs

SIZE: int = 64
"""Height and width of every picture, in pixels."""

GAP: float = 3.0
"""Least distance in pixels between two shapes' boxes, and from a box to the border."""

MAX_SHAPES: int = 4
"""The most shapes that a scene holds."""

BACKGROUNDS: tuple[float, float] = (0.05, 0.18)
"""The darkest and the lightest grey level of a background."""

KINDS: tuple[str, ...] = ("circle", "square", "triangle", "cross")
"""The kinds of shape."""

COLOURS: Mapping[str, tuple[float, float, float]] = MappingProxyType(
    {
        "red": (0.90, 0.10, 0.10),
        "green": (0.10, 0.75, 0.20),
        "blue": (0.15, 0.30, 1.00),
        "yellow": (1.00, 0.88, 0.10),
        "purple": (0.72, 0.16, 0.85),
        "white": (0.96, 0.96, 0.96),
    }
)
"""The colours, by name, as RGB in [0, 1]."""


@attrs.frozen
class Shape:
    """One flat shape, which fills the square box of half-side `radius` around (`x`, `y`).

    Places and radius are in pixels, from the top left corner; a pixel's centre lies at i + 0.5.
    """

    kind: str
    colour: str
    x: float
    y: float
    radius: float

    def __attrs_post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"`kind` must be one of {', '.join(KINDS)}, got {self.kind!r}")
        if self.colour not in COLOURS:
            raise ValueError(f"`colour` must be one of {', '.join(COLOURS)}, got {self.colour!r}")
        if not (math.isfinite(self.x) and math.isfinite(self.y)):
            raise ValueError(f"`x` and `y` must be finite, got {self.x} and {self.y}")
        if not 0 < self.radius < math.inf:
            raise ValueError(f"`radius` must be positive and finite, got {self.radius}")


@attrs.frozen
class Scene:
    """What a picture shows: one to four shapes apart from each other, on a grey background.

    The shapes' boxes keep `GAP` pixels apart and from the border.
    """

    shapes: tuple[Shape, ...]
    background: float

    def __attrs_post_init__(self) -> None:
        if not 1 <= len(self.shapes) <= MAX_SHAPES:
            raise ValueError(f"`shapes` must hold 1 to {MAX_SHAPES}, got {len(self.shapes)}")
        low, high = BACKGROUNDS
        if not low <= self.background <= high:
            raise ValueError(f"`background` must be in [{low}, {high}], got {self.background}")
        for shape in self.shapes:
            if not inside(shape.x, shape.y, shape.radius):
                raise ValueError(
                    f"`shapes` must keep {GAP} px from the border, got {shape}; "
                    "move it inwards or lessen its radius"
                )
        for one, other in combinations(self.shapes, 2):
            if not apart(one.x - other.x, one.y - other.y, one.radius + other.radius):
                raise ValueError(
                    f"`shapes` must keep {GAP} px between their boxes, got {one} and {other}; "
                    "move them apart"
                )


def inside(x: float, y: float, radius: float) -> bool:
    """Whether a box keeps `GAP` pixels from the border."""
    low, high = GAP + radius, SIZE - GAP - radius
    return low <= x <= high and low <= y <= high


def apart(dx: float, dy: float, radii: float) -> bool:
    """Whether two boxes, `dx` and `dy` from centre to centre, keep `GAP` pixels between them."""
    return max(abs(dx), abs(dy)) >= radii + GAP
