"""Scoring a batch in portions, so that a large model's activations fit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def in_portions(score: Callable[..., Tensor], *inputs: Any, batch: int | None) -> Tensor:
    """Score so many pictures at a time, each portion once more in the backward pass.

    Only one portion's activations exist at a time, for one more forward pass.

    Args:
        score: of b pictures (b, 3, H, W) and what belongs to them: (b, …).
        inputs: B pictures (B, 3, H, W), and sequences of B, such as their prompts.
        batch: Pictures at a time; None takes all at once.

    Returns:
        (B, …).

    Example:
        >>> def mean(images, prompts):
        ...     return images.mean(dim=(1, 2, 3))
        >>> in_portions(mean, torch.ones(3, 3, 2, 2), ["a", "b", "c"], batch=2)
        tensor([1., 1., 1.])
    """
    count = len(inputs[0])
    if batch is None or count <= batch:
        return score(*inputs)
    portions = (slice(start, start + batch) for start in range(0, count, batch))
    return torch.cat(
        [
            checkpoint(
                score,
                *(each[portion] for each in inputs),
                use_reentrant=False,
                preserve_rng_state=False,
            )
            for portion in portions
        ]
    )
