"""Pictures as Qwen2-VL takes them in, differentiably: resized to a budget and cut into patches."""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn import functional as F

_LONGEST = 200


def budgeted_size(height: int, width: int, *, pixels: int, multiple: int) -> tuple[int, int]:
    """The size nearest to a number of pixels whose sides are multiples of a number.

    With ``s = sqrt(pixels / (height width))`` each side becomes ``multiple floor(side s /
    multiple)`` where the picture is too large, with ``ceil`` where it is too small, and is rounded
    to the nearest multiple where that hits the budget.

    Args:
        height: of the picture.
        width: of the picture.
        pixels: The budget.
        multiple: What both sides shall be divisible by.

    Returns:
        Height and width, each at least `multiple`.

    Raises:
        ValueError: One side is more than 200 times the other.

    Example:
        >>> budgeted_size(512, 512, pixels=256 * 28 * 28, multiple=28)
        (448, 448)
        >>> budgeted_size(512, 768, pixels=256 * 28 * 28, multiple=28)
        (364, 532)

    Source: Qwen2-VL's image processing, with the same lower and upper limit.
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


def fit(images: Tensor, *, pixels: int, multiple: int) -> Tensor:
    """Resize pictures to a budget of pixels, bicubic with antialiasing.

    Args:
        images: (B, 3, H, W).
        pixels: The budget.
        multiple: What both sides shall be divisible by.

    Returns:
        (B, 3, H', W') with the size of `budgeted_size`.

    Example:
        >>> import torch
        >>> fit(torch.zeros(1, 3, 100, 100), pixels=56 * 56, multiple=28).shape
        torch.Size([1, 3, 56, 56])
    """
    height, width = images.shape[-2:]
    size = budgeted_size(height, width, pixels=pixels, multiple=multiple)
    if size == (height, width):
        return images
    return F.interpolate(images, size=size, mode="bicubic", align_corners=False, antialias=True)


def patches(images: Tensor, *, patch: int, merge: int, frames: int) -> Tensor:
    """Cut pictures into the flat patches of a video model, each picture a still of `frames`.

    Patches that are merged into one token stand next to each other: the order is row of groups,
    group, row within, patch within. The values of a patch are ordered channel, frame, row, column.

    Args:
        images: (B, C, H, W), both sides divisible by ``patch * merge``.
        patch: Side of a patch.
        merge: Patches along a side of what becomes one token.
        frames: How often a picture is repeated in time.

    Returns:
        (B * H/patch * W/patch, C * frames * patch * patch).

    Example:
        >>> import torch
        >>> picture = torch.arange(16.0).reshape(1, 1, 4, 4)
        >>> patches(picture, patch=1, merge=2, frames=1).flatten()[:8]
        tensor([0., 1., 4., 5., 2., 3., 6., 7.])
    """
    batch, channels, height, width = images.shape
    rows, columns = height // (patch * merge), width // (patch * merge)
    grid = images.reshape(batch, channels, rows, merge, patch, columns, merge, patch)
    ordered = grid.permute(0, 2, 5, 3, 6, 1, 4, 7)
    still = ordered.unsqueeze(6).expand(*ordered.shape[:6], frames, patch, patch)
    return still.reshape(-1, channels * frames * patch * patch)
