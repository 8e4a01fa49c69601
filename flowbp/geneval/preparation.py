"""Pictures as a detector trained on COCO takes them in."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from flowbp.rewards.pixels import normalise

IMAGENET_MEAN = (123.675 / 255, 116.28 / 255, 103.53 / 255)
"""Channel means of ImageNet."""

IMAGENET_STD = (58.395 / 255, 57.12 / 255, 57.375 / 255)
"""Channel standard deviations of ImageNet."""

_LONGEST, _SHORTEST = 1333, 800
_MULTIPLE = 32


def shown_size(height: int, width: int) -> tuple[int, int]:
    """The largest size of a picture's proportions within 1333x800, either way round.

    Args:
        height: of the picture.
        width: of the picture.

    Returns:
        Height and width.

    Example:
        >>> shown_size(512, 512), shown_size(400, 1000)
        ((800, 800), (533, 1333))
    """
    scale = min(_LONGEST / max(height, width), _SHORTEST / min(height, width))
    return int(height * scale + 0.5), int(width * scale + 0.5)


def eight_bits(images: Tensor) -> Tensor:
    """Pictures as their files hold them, so that a picture is judged alike before and after.

    Args:
        images: (B, 3, H, W) in [0, 1].

    Returns:
        The same, rounded to 256 levels.

    Example:
        >>> import torch
        >>> eight_bits(torch.tensor([0.5])) * 255
        tensor([128.])
    """
    return (images.clamp(0, 1) * 255).round() / 255


def prepare(images: Tensor) -> Tensor:
    """Pictures resized, normalised, and padded to multiples of 32 at the right and below.

    Bilinear without antialiasing, as the detector was trained; the padding is zero after
    normalising.

    Args:
        images: (B, 3, H, W) in [0, 1].

    Returns:
        (B, 3, H', W'), of which the first rows and columns, see `shown_size`, are the picture.

    Example:
        >>> import torch
        >>> prepare(torch.rand(1, 3, 30, 60)).shape
        torch.Size([1, 3, 672, 1344])

    Source: mmdetection, configs/mask2former, the test pipeline.
    """
    height, width = shown_size(*images.shape[-2:])
    images = F.interpolate(images, (height, width), mode="bilinear", align_corners=False)
    images = normalise(images, IMAGENET_MEAN, IMAGENET_STD)
    return F.pad(images, (0, -width % _MULTIPLE, 0, -height % _MULTIPLE))
