"""Rewards that also tell the figures of their parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import attrs
import torch
from torch import Tensor

from flowbp.components import calling, shown, wrong
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


def in_parts(
    reward: Reward, images: Tensor, prompts: Sequence[str], *, kind: str = "reward"
) -> InParts:
    """Score pictures with any reward; one that tells no parts has none.

    Args:
        reward: any.
        images: (B, 3, H, W) in [0, 1].
        prompts: B prompts.
        kind: what messages call it.

    Returns:
        Scores and parts. Where the pictures carry a gradient, so do the scores.

    Raises:
        ComponentError: the reward raised something, or returned no float tensor (B,) on the
            pictures' device, or none with a gradient where the pictures carry one.

    Example:
        >>> import torch
        >>> in_parts(lambda images, prompts: images.mean((1, 2, 3)), torch.ones(1, 3, 2, 2), ["a"])
        InParts(scores=tensor([1.]), parts={})
    """
    with calling(kind, reward, prompts):
        found: Any = (
            reward.in_parts(images, prompts)
            if isinstance(reward, RewardInParts)
            else InParts(reward(images, prompts), {})
        )
    if not isinstance(found, InParts):
        must = "must return flowbp.rewards.InParts from `in_parts`"
        raise wrong(kind, reward, f"{must}, got {shown(found)}", prompts)
    for name, figures in {"": found.scores, **found.parts}.items():
        what = f" as its part `{name}`" if name else ""
        problem = _fault(figures, images, trained=not name)
        if problem:
            raise wrong(kind, reward, f"must return{what} {problem}", prompts)
    return found


def _fault(scores: Any, images: Tensor, *, trained: bool) -> str:
    """What scores must be and are not; empty for sound ones."""
    shape, differentiable = (len(images),), images.requires_grad and torch.is_grad_enabled()
    if not isinstance(scores, Tensor) or scores.shape != shape or scores.is_complex():
        return f"a tensor of one score per picture, shape {shape}, got {shown(scores)}"
    if not (differentiable and trained):
        return ""
    if not scores.requires_grad:
        return (
            "scores that are differentiable in the pictures, got scores without a graph; call "
            "neither no_grad(), detach() nor item() inside it, and stay in torch"
        )
    if scores.dtype not in (torch.float32, torch.float64):
        return f"scores of float32, got {scores.dtype}; end with .float()"
    if scores.device != images.device:
        return (
            f"scores on the device of the pictures, {images.device}, got {scores.device}; end with "
            ".to(images.device)"
        )
    return ""
