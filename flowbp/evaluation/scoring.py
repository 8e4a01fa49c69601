"""Scores and verdicts of pictures, refused with the prompt's name where they are no such thing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from flowbp.rewards.figures import in_parts

if TYPE_CHECKING:
    from flowbp.evaluation.evaluate import Judge
    from flowbp.rewards.reward import Reward

WHOLE = "reward"
"""The name of the score itself among those of its parts."""


@torch.no_grad()
def rewarded(images: Tensor, texts: Sequence[str], reward: Reward) -> Mapping[str, Tensor]:
    """Score pictures, and tell the parts of a composed reward.

    Args:
        images: (B, 3, H, W) in [0, 1].
        texts: B prompts.
        reward: any.

    Returns:
        The score under `WHOLE` and then the parts, (B,) each, float64 on the CPU.

    Raises:
        ValueError: one has the wrong shape or is not finite; the message names the prompt.

    Example:
        >>> rewarded(torch.ones(1, 3, 2, 2), ["a"], lambda images, texts: images.mean((1, 2, 3)))
        {'reward': tensor([1.], dtype=torch.float64)}
    """
    found = in_parts(reward, images, texts)
    parts = {name: numbers(name, figures, texts) for name, figures in found.parts.items()}
    whole = {WHOLE: numbers(WHOLE, found.scores, texts)}
    # The parts first: one of them is why the whole is not finite.
    for name, scores in (parts | whole).items():
        for score, text in zip(scores.tolist(), texts, strict=True):
            if not -torch.inf < score < torch.inf:
                raise ValueError(
                    f"`{name}` of the prompt {text!r} must be finite, got {score}; look for "
                    "pictures with pixels that are not finite, or for a reward that overflows in "
                    "low precision"
                )
    return whole | parts


@torch.no_grad()
def judged(images: Tensor, texts: Sequence[str], judge: Judge) -> Tensor:
    """Have pictures judged.

    Args:
        images: (B, 3, H, W) in [0, 1].
        texts: B prompts.
        judge: any.

    Returns:
        (B,) of 1 (pass) and 0 (fail), float64 on the CPU.

    Raises:
        ValueError: a verdict is another number, or their shape is wrong.

    Example:
        >>> judged(torch.ones(1, 3, 2, 2), ["a"], lambda images, texts: images.amin((1, 2, 3)))
        tensor([1.], dtype=torch.float64)
    """
    verdicts = numbers("judge", judge(images, texts), texts)
    for verdict, text in zip(verdicts.tolist(), texts, strict=True):
        if verdict not in (0.0, 1.0):
            raise ValueError(
                f"`judge` must give the prompt {text!r} a 1 (pass) or a 0 (fail), got {verdict}; "
                "compare a graded score with a threshold first"
            )
    return verdicts


def numbers(name: str, scores: Tensor, texts: Sequence[str]) -> Tensor:
    """One number for each picture.

    Args:
        name: what they are, for the message.
        scores: as they were returned.
        texts: B prompts.

    Returns:
        (B,) float64 on the CPU.

    Raises:
        ValueError: another shape.

    Example:
        >>> numbers("reward", torch.ones(2), ["a", "b"])
        tensor([1., 1.], dtype=torch.float64)
    """
    if scores.shape != (len(texts),):
        raise ValueError(
            f"`{name}` must return one number per picture, shape ({len(texts)},), got "
            f"{tuple(scores.shape)}; the first prompt of the batch is {texts[0]!r}"
        )
    return scores.detach().double().cpu()
