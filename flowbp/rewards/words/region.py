"""The part of a picture in which a text is read."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
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


def _as_region(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _as_regions(value: Any) -> Any:
    return {prompt: _as_region(each) for prompt, each in value.items()}


def _check_region(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    fault = _fault(value)
    if fault:
        raise ValueError(f"`{attribute.name}` {fault}")


def _check_regions(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
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


# Not slotted, as it is a base beside others.
@attrs.frozen(kw_only=True, eq=False, slots=False)
class InRegions:
    """What reads a text in a region of each picture.

    Args:
        region: Left, top, right and bottom of where the text is read, as shares of the picture;
            best the line of text with little around it.
        regions: Of single prompts, by their whole text, in place of `region`.
    """

    region: Region = attrs.field(
        default=WHOLE_PICTURE, converter=_as_region, validator=_check_region
    )
    regions: Mapping[str, Region] = attrs.field(
        factory=dict, converter=_as_regions, validator=_check_regions
    )

    def crops(
        self, images: Tensor, prompts: Sequence[str], rows: Iterable[int]
    ) -> Iterator[tuple[list[int], Tensor]]:
        """Some rows of pictures (B, 3, H, W), those that are read in one region together.

        Example:
            >>> import torch
            >>> reading = InRegions(regions={"b": (0, 0, 1, 0.5)})
            >>> found = reading.crops(torch.rand(3, 3, 40, 80), ["a", "b", "a"], range(3))
            >>> [(rows, tuple(crops.shape)) for rows, crops in found]
            [([0, 2], (2, 3, 40, 80)), ([1], (1, 3, 20, 80))]
        """
        places: dict[Region, list[int]] = {}
        for row in rows:
            places.setdefault(self.regions.get(prompts[row], self.region), []).append(row)
        for region, own in places.items():
            yield own, cut_out(images[own], region)
