"""The metrics and judges of rewards and embeddings that YAML names, and how they are built."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import torch

from flowbp.config import Component
from flowbp.evaluation import HeldOut, Judge, JudgeMetric, Metric, RewardMetric
from flowbp.evaluation.metrics import (
    BaseDistance,
    Diversity,
    Embedding,
    Points,
    clip_embedding,
)
from flowbp.evaluation.reward_metrics import WHOLE, rewarded
from flowbp.rewards import TOWERS, Reward, Towers, UncalibratedReward
from flowbp.settings.registries import METRICS, REWARDS

CLIP: Component[Embedding] = Component("clip", clip_embedding)
"""The embedding of a metric that names none."""


def reward_metric(
    *,
    reward: Component[Reward],
    label: str = "reward",
    device: torch.device | str = "cpu",
    towers: Towers = TOWERS,
) -> RewardMetric:
    """Any reward as a metric, such as one of your own by its dotted path.

    Args:
        reward: by its name, with its own keys.
        label: of the metric.
        device: where it runs.
        towers: the pool in which models are shared.
    """
    return _rewarding(label, reward.build(device=device, towers=towers))


def judge_metric(
    *,
    judge: Component[Judge],
    label: str = "judge",
    device: torch.device | str = "cpu",
    towers: Towers = TOWERS,
) -> JudgeMetric:
    """Any judge as a metric.

    Args:
        judge: by its name, with its own keys.
        label: of the metric.
        device: where it runs.
        towers: the pool in which models are shared.
    """
    return JudgeMetric(label, built_judge(judge, device=device, towers=towers))


def built_judge(
    component: Component[Judge], *, device: torch.device | str, towers: Towers
) -> Judge:
    """Build a judge; a reward that was named in its place is one, as any number is a judgement."""
    built: Any = component.build(device=device, towers=towers)
    return _refuse_uncalibrated("judge", built)


@attrs.frozen
class Threshold:
    """A judge that passes what scores at least so much."""

    reward: Reward
    at_least: float

    def __call__(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        """Judge the pictures ``(B, 3, H, W)``; ``(B,)`` of 1 and 0."""
        return (rewarded(images, prompts, self.reward)[WHOLE] >= self.at_least).double()


def threshold_judge(
    *,
    reward: Component[Reward],
    at_least: float,
    device: torch.device | str = "cpu",
    towers: Towers = TOWERS,
) -> Threshold:
    """Any reward as a judge: right is what scores at least so much.

    Args:
        reward: by its name, with its own keys.
        at_least: the score, in the reward's own units, from which a picture is right.
        device: where it runs.
        towers: the pool in which models are shared.
    """
    built = _rewarding("reward", reward.build(device=device, towers=towers))
    return Threshold(built.reward, at_least)


def built_metric(
    label: str,
    component: Component[Metric],
    *,
    device: torch.device,
    towers: Towers,
    **offered: Any,
) -> Metric:
    """Build a metric; a reward that was named in its place becomes one."""
    built: Any = component.build(label=label, device=device, towers=towers, **offered)
    is_reward = METRICS.origin_of(component.name) is REWARDS
    return _rewarding(label, built) if is_reward else built


def _rewarding(label: str, reward: Reward | UncalibratedReward) -> RewardMetric:
    return RewardMetric(label, _refuse_uncalibrated(label, reward))


def _refuse_uncalibrated(label: str, reward: Reward | UncalibratedReward) -> Reward:
    if isinstance(reward, UncalibratedReward):
        raise ValueError(
            f"`{label}` is a sum whose parts {', '.join(reward.missing)} have no `mean` and `std`; "
            "take those of the run's calibration.json"
        )
    return reward


@attrs.frozen(eq=False)
class PointsByEmbedding:
    """The points of pictures under each embedding as it was configured."""

    _known: list[tuple[Component[Embedding], Points]] = attrs.field(
        factory=list, init=False, repr=False
    )

    def of(self, embedding: Component[Embedding]) -> Points:
        """The points of an embedding; the same for two that are configured alike."""
        whole = attrs.evolve(embedding, name="", arguments=embedding.completed)
        for known, points in self._known:
            if known == whole:
                return points
        self._known.append((whole, Points()))
        return self._known[-1][1]


def _one_of_each(prompts: Sequence[HeldOut], seeds: Sequence[int]) -> str:
    # The same text twice is two pictures of it.
    if len(seeds) > 1 or len({prompt.text for prompt in prompts}) < len(prompts):
        return ""
    return (
        "needs several pictures of a prompt, and there is one of each; give evaluation.seeds more "
        "than one number"
    )


def diversity_metric(
    *,
    embedding: Component[Embedding] = CLIP,
    batch: int = 16,
    label: str = "diversity",
    device: torch.device | str = "cpu",
    towers: Towers = TOWERS,
    points: PointsByEmbedding | None = None,
) -> Diversity:
    """Mean pairwise distance of the pictures of a prompt, in an embedding.

    Args:
        embedding: of the pictures, by its name, with its own keys.
        batch: pictures embedded at a time.
        label: of the metric.
        device: where it runs.
        towers: the pool in which models are shared.
        points: of pictures that other metrics have embedded already.
    """
    return Diversity(
        embedding=embedding.build(device=device, towers=towers),
        batch=batch,
        label=label,
        points=(points or PointsByEmbedding()).of(embedding),
    )


diversity_metric.why_unsuitable = _one_of_each  # type: ignore[attr-defined]


def distance_metric(
    *,
    embedding: Component[Embedding] = CLIP,
    batch: int = 16,
    label: str = "distance",
    device: torch.device | str = "cpu",
    towers: Towers = TOWERS,
    points: PointsByEmbedding | None = None,
) -> BaseDistance:
    """Distance of each picture from the base model's of the same noise, in an embedding.

    Args:
        embedding: of the pictures, by its name, with its own keys.
        batch: pictures embedded at a time.
        label: of the metric.
        device: where it runs.
        towers: the pool in which models are shared.
        points: of pictures that other metrics have embedded already.
    """
    return BaseDistance(
        embedding=embedding.build(device=device, towers=towers),
        batch=batch,
        label=label,
        points=(points or PointsByEmbedding()).of(embedding),
    )
