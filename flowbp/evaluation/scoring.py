"""Scores and verdicts of pictures, refused with the prompt's name where they are no such thing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from flowbp.components import calling, shown, wrong
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
        ComponentError: the reward raised something, or a score or part has the wrong shape or is
            not finite; the message names the prompt.

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
                must = "must return finite scores"
                problem = (
                    f"{must if name == WHOLE else f'{must} as its part `{name}`'}, got {score}; "
                    "look for pictures with pixels that are not finite, or for a reward that "
                    "overflows in low precision"
                )
                raise wrong("reward", reward, problem, [text])
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
        ComponentError: the judge raised something, or a verdict is another number, or their shape
            is wrong; the message names the prompt.

    Example:
        >>> judged(torch.ones(1, 3, 2, 2), ["a"], lambda images, texts: images.amin((1, 2, 3)))
        tensor([1.], dtype=torch.float64)
    """
    with calling("judge", judge, texts):
        found = judge(images, texts)
    if not isinstance(found, Tensor) or found.shape != (len(texts),):
        must = f"must return one verdict per picture, shape ({len(texts)},)"
        raise wrong("judge", judge, f"{must}, got {shown(found)}", texts)
    verdicts = numbers("judge", found, texts)
    for verdict, text in zip(verdicts.tolist(), texts, strict=True):
        if verdict not in (0.0, 1.0):
            problem = (
                f"must return 1 (pass) or 0 (fail), got {verdict}; a score is made a verdict by "
                "{name: threshold, reward: {name: …}, at_least: …}"
            )
            raise wrong("judge", judge, problem, [text])
    return verdicts


def numbers(name: str, scores: Any, texts: Sequence[str]) -> Tensor:
    """One number for each picture.

    Args:
        name: what they are, for the message.
        scores: as they were returned.
        texts: B prompts.

    Returns:
        (B,) float64 on the CPU.

    Raises:
        ValueError: no tensor, or another shape.

    Example:
        >>> numbers("reward", torch.ones(2), ["a", "b"])
        tensor([1., 1.], dtype=torch.float64)
    """
    if not isinstance(scores, Tensor) or scores.shape != (len(texts),) or scores.is_complex():
        raise ValueError(
            f"`{name}` must return one number per picture, shape ({len(texts)},), got "
            f"{shown(scores)}; the first prompt of the batch is {texts[0]!r}"
        )
    return scores.detach().double().cpu()
