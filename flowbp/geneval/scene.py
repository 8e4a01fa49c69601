"""What a detector found in a picture, and which of it counts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

import attrs
from torch import Tensor

from flowbp.geneval.geometry import Box

MOST = 16
"""Objects of a class that are looked at."""

Scene = Mapping[str, tuple["Detection", ...]]
"""Detections by class, most confident first."""


@attrs.frozen(eq=False)
class Detection:
    """An object that a detector found.

    Args:
        name: its class.
        score: how sure the detector is, in [0, 1].
        box: where it is.
        mask: (H, W) of bools, which pixels of the picture it covers.

    Example:
        >>> Detection("dog", 0.9, (0, 0, 4, 4)).mask is None
        True
    """

    name: str
    score: float
    box: Box
    mask: Tensor | None = attrs.field(default=None, repr=False)


class Detector(Protocol):
    """Finds objects in pictures."""

    def __call__(self, images: Tensor) -> tuple[tuple[Detection, ...], ...]:
        """Pictures (B, 3, H, W) in [0, 1] to the objects in each of them."""
        ...


def threshold(kind: str) -> float:
    """How sure a detector must be for an object to count.

    Args:
        kind: the task.

    Returns:
        0.9 for counting, else 0.3.

    Example:
        >>> threshold("counting"), threshold("position")
        (0.9, 0.3)
    """
    return 0.9 if kind == "counting" else 0.3


def select(detections: Iterable[Detection], *, above: float, most: int = MOST) -> Scene:
    """The objects that count.

    Args:
        detections: in any order.
        above: the score that each must exceed.
        most: objects of each class that are kept, the surest ones.

    Returns:
        The rest by class, surest first; classes without any are absent.

    Example:
        >>> found = [Detection("dog", score, (0, 0, 1, 1)) for score in (0.3, 0.5, 0.9)]
        >>> [detection.score for detection in select(found, above=0.3)["dog"]]
        [0.9, 0.5]
    """
    scene: dict[str, list[Detection]] = {}
    for detection in sorted(detections, key=lambda found: -found.score):
        if detection.score > above:
            scene.setdefault(detection.name, []).append(detection)
    return {name: tuple(found[:most]) for name, found in scene.items()}
