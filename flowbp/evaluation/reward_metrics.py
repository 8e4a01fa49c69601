"""Rewards and judges as metrics, whose scores and verdicts are checked prompt by prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor

from flowbp.component_errors import calling, shown, wrong
from flowbp.evaluation.held_out_prompts import HeldOut
from flowbp.evaluation.metric import Judge, Scale
from flowbp.rewards.reward import Reward, in_parts
from flowbp.validators import not_empty

WHOLE = "reward"
"""The name of the score itself among those of its parts."""


@attrs.frozen
class RewardMetric:
    """A reward as a metric: one column of its label, and one for each part of a composed reward.

    Args:
        label: name of the column; parts are ``label.part``.
        reward: the score.

    Example:
        >>> from flowbp.evaluation import HeldOutPrompt
        >>> bright = RewardMetric("bright", lambda images, prompts: images.mean((1, 2, 3)))
        >>> bright(torch.ones(1, 3, 2, 2), [HeldOutPrompt("snow")])
        {'bright': tensor([1.], dtype=torch.float64)}
    """

    label: str = attrs.field(validator=not_empty)
    reward: Reward

    def __call__(self, images: Tensor, prompts: Sequence[HeldOut]) -> Mapping[str, Tensor]:
        """Score the pictures ``(B, 3, H, W)``; ``(B,)`` each, refused if one is not finite."""
        found = rewarded(images, [prompt.text for prompt in prompts], self.reward)
        return {
            self.label if name == WHOLE else f"{self.label}.{name}": values
            for name, values in found.items()
        }


@attrs.frozen
class JudgeMetric:
    """A judge as a metric: one column of its label, of verdicts (1 and 0) or other numbers.

    Args:
        label: name of the column.
        judge: says how good pictures are.

    Example:
        >>> from flowbp.evaluation import HeldOutPrompt
        >>> white = JudgeMetric("white", lambda images, prompts: images.amin((1, 2, 3)).floor())
        >>> white(torch.zeros(1, 3, 2, 2), [HeldOutPrompt("snow")])
        {'white': tensor([0.], dtype=torch.float64)}
    """

    label: str = attrs.field(validator=not_empty)
    judge: Judge

    @property
    def scales(self) -> Mapping[str, Scale]:
        """Its column holds verdicts, unless it turns out to have other numbers."""
        return {self.label: Scale(verdict=True)}

    def __call__(self, images: Tensor, prompts: Sequence[HeldOut]) -> Mapping[str, Tensor]:
        """Judge the pictures ``(B, 3, H, W)``; ``(B,)``, refused if one is not finite."""
        return {self.label: judged(images, [prompt.text for prompt in prompts], self.judge)}


@torch.no_grad()
def rewarded(images: Tensor, texts: Sequence[str], reward: Reward) -> Mapping[str, Tensor]:
    """Score pictures by a reward and, if it is composed, by each of its parts."""
    found = in_parts(reward, images, texts)
    parts = {name: numbers(name, values, texts) for name, values in found.parts.items()}
    whole = {WHOLE: numbers(WHOLE, found.scores, texts)}
    # The parts first: one of them is why the whole is not finite.
    for name, scores in (parts | whole).items():
        part = "" if name == WHOLE else f" as its part `{name}`"
        for score, text in zip(scores.tolist(), texts, strict=True):
            if not -torch.inf < score < torch.inf:
                problem = (
                    f"must return finite scores{part}, got {score}; look for pictures with pixels "
                    "that are not finite, or for a reward that overflows in low precision"
                )
                raise wrong("reward", reward, problem, [text])
    return whole | parts


@torch.no_grad()
def judged(images: Tensor, texts: Sequence[str], judge: Judge) -> Tensor:
    """Have pictures judged; (B,) finite numbers, 1 and 0 where they are verdicts."""
    with calling("judge", judge, texts):
        found = judge(images, texts)
    if not isinstance(found, Tensor) or found.shape != (len(texts),):
        must = f"must return one number per picture, shape ({len(texts)},)"
        raise wrong("judge", judge, f"{must}, got {shown(found)}", texts)
    scores = numbers("judge", found, texts)
    for score, text in zip(scores.tolist(), texts, strict=True):
        if not -torch.inf < score < torch.inf:
            raise wrong("judge", judge, f"must return finite numbers, got {score}", [text])
    return scores


def numbers(name: str, scores: Any, texts: Sequence[str]) -> Tensor:
    """One number for each picture, in float64 on the CPU."""
    if not isinstance(scores, Tensor) or scores.shape != (len(texts),) or scores.is_complex():
        raise ValueError(
            f"`{name}` must return one number per picture, shape ({len(texts)},), got "
            f"{shown(scores)}; the first prompt of the batch is {texts[0]!r}"
        )
    return scores.detach().double().cpu()
