"""Scoring a batch in portions, so that a large model's activations fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def in_portions(
    score: Callable[[Tensor, Sequence[str]], Tensor],
    images: Tensor,
    prompts: Sequence[str],
    *,
    batch: int | None,
) -> Tensor:
    """Score so many pictures at a time, each portion once more in the backward pass.

    Only one portion's activations exist at a time, for one more forward pass.

    Args:
        score: Scores pictures (b, 3, H, W) against b prompts: (b,).
        images: (B, 3, H, W).
        prompts: B prompts.
        batch: Pictures at a time; None takes all at once.

    Returns:
        (B,).

    Example:
        >>> def mean(images, prompts):
        ...     return images.mean(dim=(1, 2, 3))
        >>> in_portions(mean, torch.ones(3, 3, 2, 2), ["a", "b", "c"], batch=2)
        tensor([1., 1., 1.])
    """
    if batch is None or len(images) <= batch:
        return score(images, prompts)
    starts = range(0, len(images), batch)
    return torch.cat(
        [
            checkpoint(
                score,
                images[start : start + batch],
                prompts[start : start + batch],
                use_reentrant=False,
                preserve_rng_state=False,
            )
            for start in starts
        ]
    )
