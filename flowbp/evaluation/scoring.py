"""Scores and verdicts of pictures, refused with the prompt's name where they are no such thing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from flowbp.component_errors import calling, shown, wrong
from flowbp.rewards.reward import in_parts

if TYPE_CHECKING:
    from flowbp.evaluation.metric import Judge
    from flowbp.rewards.reward import Reward

WHOLE = "reward"
"""The name of the score itself among those of its parts."""


@torch.no_grad()
def rewarded(images: Tensor, texts: Sequence[str], reward: Reward) -> Mapping[str, Tensor]:
    """Score pictures by a reward and, if it is composed, by each of its parts."""
    found = in_parts(reward, images, texts)
    parts = {name: numbers(name, values, texts) for name, values in found.parts.items()}
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
    """Have pictures judged."""
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
    """One number for each picture."""
    if not isinstance(scores, Tensor) or scores.shape != (len(texts),) or scores.is_complex():
        raise ValueError(
            f"`{name}` must return one number per picture, shape ({len(texts)},), got "
            f"{shown(scores)}; the first prompt of the batch is {texts[0]!r}"
        )
    return scores.detach().double().cpu()
