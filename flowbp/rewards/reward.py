"""What the library asks of a reward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor


class Reward(Protocol):
    """Scores pictures against prompts; higher is better. Differentiable in the pictures."""

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Score each picture.

        Args:
            images: (B, 3, H, W) in [0, 1].
            prompts: B prompts.

        Returns:
            (B,) scores, float32; the gradient reaches `images`.
        """
        ...


def check_prompts(images: Tensor, prompts: Sequence[str]) -> None:
    """Refuse another number of prompts than of pictures.

    Args:
        images: (B, 3, H, W).
        prompts: To be B of them.

    Raises:
        ValueError: With what was given.

    Example:
        >>> import torch
        >>> check_prompts(torch.zeros(1, 3, 2, 2), "red")
        Traceback (most recent call last):
            ...
        ValueError: `prompts` must be a sequence of 1 strings, one per picture, got 'red'
    """
    if isinstance(prompts, str) or len(prompts) != len(images):
        raise ValueError(
            f"`prompts` must be a sequence of {len(images)} strings, one per picture, got "
            f"{prompts!r}"
        )
