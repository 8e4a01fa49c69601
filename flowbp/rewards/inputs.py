"""What a reward asks of its arguments."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from flowbp.rewards.reward import check_prompts


def check_inputs(images: Tensor, prompts: Sequence[str]) -> None:
    """Refuse pictures of another shape, and another number of prompts than of pictures.

    Args:
        images: (B, 3, H, W).
        prompts: To be B of them.

    Raises:
        ValueError: With what was given.

    Example:
        >>> import torch
        >>> check_inputs(torch.zeros(3, 8, 8), ["a circle"])
        Traceback (most recent call last):
            ...
        ValueError: `images` must be (B, 3, H, W), got (3, 8, 8)
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"`images` must be (B, 3, H, W), got {tuple(images.shape)}")
    check_prompts(images, prompts)
