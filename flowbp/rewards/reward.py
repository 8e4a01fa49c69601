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
