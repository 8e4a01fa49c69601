"""Differentiable picture preparation, in float32: resizing, normalising, cutting into patches.

Image processors and PIL have no gradient, and bicubic resizing without antialiasing gives most
pixels of a large picture none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
"""Channel means that OpenAI's CLIP was trained with."""

CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
"""Channel standard deviations that OpenAI's CLIP was trained with."""

_LONGEST = 200


class Resize(Protocol):
    """Brings pictures of any size to a square; pictures of that size pass through untouched."""

    def __call__(self, images: Tensor, size: int) -> Tensor:
        """Images (B, 3, H, W) to (B, 3, size, size)."""
        ...


def stretch(images: Tensor, size: int) -> Tensor:
    """Resize both sides to `size`, whatever the picture's proportions: (B, 3, size, size)."""
    return resized(images, size, size)


def crop_shortest_side(images: Tensor, size: int) -> Tensor:
    """Resize the shortest side to `size` and cut the centre out, as transformers does.

    Of ``d`` pixels too many ``floor(d / 2)`` are cut off above or left. For models that were
    trained with an image processor of transformers, such as PickScore.
    """
    images = _shortest_side(images, size)
    top, left = (images.shape[-2] - size) // 2, (images.shape[-1] - size) // 2
    return images[..., top : top + size, left : left + size]


def crop_shortest_side_torchvision(images: Tensor, size: int) -> Tensor:
    """The same cut as torchvision does: half of an odd number is rounded to the even side.

    Of ``d`` pixels too many ``round(d / 2)`` are cut off above or left: 2 of 3 and 2 of 5. For
    models that were trained with torchvision's CenterCrop: ImageReward and the CLIP models of
    OpenAI and open_clip.

    Source: torchvision/transforms/functional.py, `center_crop`.
    """
    images = _shortest_side(images, size)
    top, left = (round((side - size) / 2) for side in images.shape[-2:])
    return images[..., top : top + size, left : left + size]


def pad_longest_side(images: Tensor, size: int) -> Tensor:
    """Resize the longest side to `size` and pad with black around, as HPSv2 does.

    Where the padding is odd, the extra pixel goes right or below.
    """
    height, width = images.shape[-2:]
    longest = max(height, width)
    images = resized(images, round(size * height / longest), round(size * width / longest))
    missing_rows, missing_columns = size - images.shape[-2], size - images.shape[-1]
    top, left = missing_rows // 2, missing_columns // 2
    return F.pad(images, (left, missing_columns - left, top, missing_rows - top))


def normalise(
    images: Tensor, mean: Sequence[float] | Tensor, std: Sequence[float] | Tensor
) -> Tensor:
    """Shift and scale each channel of pictures (B, C, H, W): ``(image - mean) / std``.

    A tensor on the pictures' device saves a copy at every call.
    """
    offset = torch.as_tensor(mean, dtype=images.dtype, device=images.device)[:, None, None]
    spread = torch.as_tensor(std, dtype=images.dtype, device=images.device)[:, None, None]
    return (images - offset) / spread


def channel_tensors(
    mean: Sequence[float], std: Sequence[float], *, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """`mean` and `std` for `normalise` as tensors, made once: a copy to a device waits for it."""
    return (
        torch.tensor(mean, dtype=dtype, device=device),
        torch.tensor(std, dtype=dtype, device=device),
    )


def budgeted_size(height: int, width: int, *, pixels: int, multiple: int) -> tuple[int, int]:
    """The size nearest to a number of pixels whose sides are multiples of a number, as Qwen2-VL's.

    With ``s = sqrt(pixels / (height width))`` each side becomes ``multiple floor(side s /
    multiple)`` where the picture is too large, with ``ceil`` where it is too small, and is rounded
    to the nearest multiple where that hits the budget.
    """
    if max(height, width) > _LONGEST * min(height, width):
        raise ValueError(
            f"`images` must have sides of a ratio up to {_LONGEST}, got {height}x{width}; crop them"
        )
    nearest = tuple(round(side / multiple) * multiple for side in (height, width))
    area = nearest[0] * nearest[1]
    if area == pixels:
        return nearest[0], nearest[1]
    to_whole = math.floor if area > pixels else math.ceil
    shrunk_by = math.sqrt(height * width / pixels)
    rows, columns = (
        max(1, to_whole(side / shrunk_by / multiple)) * multiple for side in (height, width)
    )
    return rows, columns


def fit_budget(images: Tensor, *, pixels: int, multiple: int) -> Tensor:
    """Resize pictures (B, 3, H, W) to their `budgeted_size`, bicubic with antialiasing."""
    height, width = images.shape[-2:]
    rows, columns = budgeted_size(height, width, pixels=pixels, multiple=multiple)
    return resized(images, rows, columns)


def patches(images: Tensor, *, patch: int, merge: int, frames: int) -> Tensor:
    """Cut pictures (B, C, H, W) into the flat patches of a video model, each a still of `frames`.

    Patches that are merged into one token stand next to each other: the order is row of groups,
    group, row within, patch within. The values of a patch are ordered channel, frame, row, column.

    Returns:
        (B * H/patch * W/patch, C * frames * patch * patch).
    """
    batch, channels, height, width = images.shape
    rows, columns = height // (patch * merge), width // (patch * merge)
    grid = images.reshape(batch, channels, rows, merge, patch, columns, merge, patch)
    ordered = grid.permute(0, 2, 5, 3, 6, 1, 4, 7)
    still = ordered.unsqueeze(6).expand(*ordered.shape[:6], frames, patch, patch)
    return still.reshape(-1, channels * frames * patch * patch)


def _shortest_side(images: Tensor, size: int) -> Tensor:
    height, width = images.shape[-2:]
    shortest = min(height, width)
    return resized(images, size * height // shortest, size * width // shortest)


def resized(
    images: Tensor, height: int, width: int, *, mode: Literal["bicubic", "bilinear"] = "bicubic"
) -> Tensor:
    """Resize pictures (B, C, H, W) to (B, C, height, width), with antialiasing."""
    if images.shape[-2:] == (height, width):
        return images
    return F.interpolate(
        images, size=(height, width), mode=mode, align_corners=False, antialias=True
    )
