"""Rewards that also tell the figures of their parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import attrs
from torch import Tensor

from flowbp.rewards.reward import Reward


@attrs.frozen(eq=False)
class InParts:
    """Scores together with what they are made of.

    Args:
        scores: (B,), the reward.
        parts: further figures of each picture by name, (B,) each, such as `likeness.raw`.

    Example:
        >>> import torch
        >>> InParts(torch.ones(2), {"likeness.raw": torch.zeros(2)}).parts["likeness.raw"]
        tensor([0., 0.])
    """

    scores: Tensor
    parts: Mapping[str, Tensor]


@runtime_checkable
class RewardInParts(Reward, Protocol):
    """A reward whose parts are logged beside it, in training and in evaluation."""

    def in_parts(self, images: Tensor, prompts: Sequence[str]) -> InParts:
        """Score each picture as a call does, and tell the parts.

        Args:
            images: (B, 3, H, W) in [0, 1].
            prompts: B prompts.

        Returns:
            The scores of a call, and the parts, of the same names every time.
        """
        ...


def in_parts(reward: Reward, images: Tensor, prompts: Sequence[str]) -> InParts:
    """Score pictures with any reward; one that tells no parts has none.

    Args:
        reward: any.
        images: (B, 3, H, W) in [0, 1].
        prompts: B prompts.

    Returns:
        Scores and parts.

    Example:
        >>> import torch
        >>> in_parts(lambda images, prompts: images.mean((1, 2, 3)), torch.ones(1, 3, 2, 2), ["a"])
        InParts(scores=tensor([1.]), parts={})
    """
    if isinstance(reward, RewardInParts):
        return reward.in_parts(images, prompts)
    return InParts(reward(images, prompts), {})
