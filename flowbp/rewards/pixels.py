"""Differentiable picture preparation: resizing to a square and normalising, in float32.

Image processors and PIL have no gradient, and bicubic resizing without antialiasing gives most
pixels of a large picture none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
"""Channel means that OpenAI's CLIP was trained with."""

CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
"""Channel standard deviations that OpenAI's CLIP was trained with."""


class Resize(Protocol):
    """Brings pictures of any size to a square; pictures of that size pass through untouched."""

    def __call__(self, images: Tensor, size: int) -> Tensor:
        """Images (B, 3, H, W) to (B, 3, size, size)."""
        ...


def stretch(images: Tensor, size: int) -> Tensor:
    """Resize both sides to `size`, whatever the picture's proportions.

    Args:
        images: (B, 3, H, W).
        size: Pixels along a side.

    Returns:
        (B, 3, size, size).

    Example:
        >>> stretch(torch.zeros(1, 3, 6, 12), 4).shape
        torch.Size([1, 3, 4, 4])
    """
    return _bicubic(images, size, size)


def crop_shortest_side(images: Tensor, size: int) -> Tensor:
    """Resize the shortest side to `size` and cut the centre out, as transformers does.

    Of ``d`` pixels too many ``floor(d / 2)`` are cut off above or left. For models that were
    trained with an image processor of transformers, such as PickScore.

    Args:
        images: (B, 3, H, W).
        size: Pixels along a side.

    Returns:
        (B, 3, size, size).

    Example:
        >>> crop_shortest_side(torch.zeros(1, 3, 6, 12), 4).shape
        torch.Size([1, 3, 4, 4])
    """
    images = _shortest_side(images, size)
    top, left = (images.shape[-2] - size) // 2, (images.shape[-1] - size) // 2
    return images[..., top : top + size, left : left + size]


def crop_shortest_side_torchvision(images: Tensor, size: int) -> Tensor:
    """The same cut as torchvision does: half of an odd number is rounded to the even side.

    Of ``d`` pixels too many ``round(d / 2)`` are cut off above or left: 2 of 3 and 2 of 5. For
    models that were trained with torchvision's CenterCrop: ImageReward and the CLIP models of
    OpenAI and open_clip.

    Args:
        images: (B, 3, H, W).
        size: Pixels along a side.

    Returns:
        (B, 3, size, size).

    Example:
        >>> wide = torch.arange(7.0).expand(1, 1, 4, 7)
        >>> crop_shortest_side_torchvision(wide, 4)[0, 0, 0], crop_shortest_side(wide, 4)[0, 0, 0]
        (tensor([2., 3., 4., 5.]), tensor([1., 2., 3., 4.]))

    Source: torchvision/transforms/functional.py, `center_crop`.
    """
    images = _shortest_side(images, size)
    top, left = (round((side - size) / 2) for side in images.shape[-2:])
    return images[..., top : top + size, left : left + size]


def pad_longest_side(images: Tensor, size: int) -> Tensor:
    """Resize the longest side to `size` and pad with black around, as HPSv2 does.

    Where the padding is odd, the extra pixel goes right or below.

    Args:
        images: (B, 3, H, W).
        size: Pixels along a side.

    Returns:
        (B, 3, size, size).

    Example:
        >>> pad_longest_side(torch.ones(1, 1, 2, 4), 4)[0, 0, :, 0]
        tensor([0., 1., 1., 0.])
    """
    height, width = images.shape[-2:]
    longest = max(height, width)
    images = _bicubic(images, round(size * height / longest), round(size * width / longest))
    missing_rows, missing_columns = size - images.shape[-2], size - images.shape[-1]
    top, left = missing_rows // 2, missing_columns // 2
    return F.pad(images, (left, missing_columns - left, top, missing_rows - top))


def normalise(
    images: Tensor, mean: Sequence[float] | Tensor, std: Sequence[float] | Tensor
) -> Tensor:
    """Shift and scale each channel: ``(image - mean) / std``.

    Args:
        images: (B, C, H, W).
        mean: C numbers; a tensor on the pictures' device saves a copy at every call.
        std: C positive numbers, alike.

    Returns:
        (B, C, H, W).

    Example:
        >>> normalise(torch.ones(1, 3, 1, 1), (0.5,) * 3, (0.25,) * 3).flatten()
        tensor([2., 2., 2.])
    """
    offset = torch.as_tensor(mean, dtype=images.dtype, device=images.device)[:, None, None]
    spread = torch.as_tensor(std, dtype=images.dtype, device=images.device)[:, None, None]
    return (images - offset) / spread


def _shortest_side(images: Tensor, size: int) -> Tensor:
    height, width = images.shape[-2:]
    shortest = min(height, width)
    return _bicubic(images, size * height // shortest, size * width // shortest)


def _bicubic(images: Tensor, height: int, width: int) -> Tensor:
    if images.shape[-2:] == (height, width):
        return images
    return F.interpolate(
        images, size=(height, width), mode="bicubic", align_corners=False, antialias=True
    )
