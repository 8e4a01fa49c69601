"""The part of a picture in which a text is read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from torch import Tensor

Region = tuple[float, float, float, float]
"""Left, top, right and bottom, as shares of a picture's width and height from its upper left."""

WHOLE_PICTURE: Region = (0.0, 0.0, 1.0, 1.0)


def _fault(value: Any) -> str:
    """What is wrong with a region; empty if nothing is."""
    if isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 4:
        numbers = [v for v in value if isinstance(v, int | float) and not isinstance(v, bool)]
        if len(numbers) == 4:
            left, top, right, bottom = numbers
            if 0 <= left < right <= 1 and 0 <= top < bottom <= 1:
                return ""
    return (
        "must be [left, top, right, bottom] as shares of the picture with 0 <= left < right <= 1 "
        f"and 0 <= top < bottom <= 1, got {value!r}; [0, 0.4, 1, 0.6] is a band across its middle"
    )


def as_region(value: Any) -> Any:
    """A converter of a region."""
    return tuple(value) if isinstance(value, list) else value


def as_regions(value: Any) -> Any:
    """A converter of regions by prompt."""
    return {prompt: as_region(each) for prompt, each in value.items()}


def check_region(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    """A validator of a region."""
    fault = _fault(value)
    if fault:
        raise ValueError(f"`{attribute.name}` {fault}")


def check_regions(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    """A validator of regions by prompt."""
    for prompt, region in value.items():
        fault = _fault(region)
        if fault:
            raise ValueError(f"`{attribute.name}` of {prompt!r} {fault}")


def cut_out(images: Tensor, region: Region) -> Tensor:
    """The part of pictures (B, 3, H, W) that a region covers, in whole pixels: (B, 3, h, w).

    Example:
        >>> import torch
        >>> cut_out(torch.rand(2, 3, 40, 80), (0.25, 0.5, 0.75, 1.0)).shape
        torch.Size([2, 3, 20, 40])
    """
    height, width = images.shape[-2:]
    left, top, right, bottom = region
    rows = slice(math.floor(top * height), math.ceil(bottom * height))
    columns = slice(math.floor(left * width), math.ceil(right * width))
    return images[..., rows, columns]


def rows_by_region(
    prompts: Sequence[str], region: Region, regions: Mapping[str, Region]
) -> dict[Region, list[int]]:
    """The places of the prompts that are read in the same region, which is `region` unless named.

    Example:
        >>> rows_by_region(["a", "b", "a"], WHOLE_PICTURE, {"b": (0.0, 0.0, 1.0, 0.5)})
        {(0.0, 0.0, 1.0, 1.0): [0, 2], (0.0, 0.0, 1.0, 0.5): [1]}
    """
    rows: dict[Region, list[int]] = {}
    for row, prompt in enumerate(prompts):
        rows.setdefault(regions.get(prompt, region), []).append(row)
    return rows
