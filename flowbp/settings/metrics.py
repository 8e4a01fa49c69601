"""How metrics of an evaluation are named in YAML, and built."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import torch

from flowbp.configuration import Component
from flowbp.evaluation import Judge, JudgeMetric, Metric, RewardMetric
from flowbp.evaluation.scoring import WHOLE, rewarded
from flowbp.rewards import TOWERS, Reward, Towers, UncalibratedReward


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
        label: offered; the metric's.
        device: offered to the reward.
        towers: offered to the reward.

    Returns:
        The metric.

    Raises:
        ValueError: the reward is a sum whose scales are not known.
        Exception: what building the reward raises.

    Example:
        >>> bright = Component("bright", lambda: lambda images, prompts: images.mean((1, 2, 3)))
        >>> reward_metric(reward=bright, label="brightness").label
        'brightness'
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
        label: offered; the metric's.
        device: offered to the judge.
        towers: offered to the judge.

    Returns:
        The metric.

    Raises:
        Exception: what building the judge raises.

    Example:
        >>> white = Component("white", lambda: lambda images, prompts: images.amin((1, 2, 3)))
        >>> judge_metric(judge=white, label="white").label
        'white'
    """
    return JudgeMetric(label, judge.build(device=device, towers=towers))


@attrs.frozen
class Threshold:
    """A judge that passes what scores at least so much.

    Args:
        reward: gives the score.
        at_least: that passes.

    Example:
        >>> judge = Threshold(lambda images, prompts: images.mean((1, 2, 3)), 0.5)
        >>> judge(torch.tensor([0.25, 0.75]).view(2, 1, 1, 1), ["a", "b"])
        tensor([0., 1.], dtype=torch.float64)
    """

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
    """Any reward as a judge.

    Args:
        reward: by its name, with its own keys.
        at_least: the score that passes.
        device: offered to the reward.
        towers: offered to the reward.

    Returns:
        The judge.

    Raises:
        ValueError: the reward is a sum whose scales are not known.
        Exception: what building the reward raises.

    Example:
        >>> bright = Component("bright", lambda: lambda images, prompts: images.mean((1, 2, 3)))
        >>> threshold_judge(reward=bright, at_least=0.5).at_least
        0.5
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
    """Build a metric; a reward that was named in its place becomes one.

    Args:
        label: of the metric.
        component: a metric's, or a reward's by its name.
        device: where it runs.
        towers: what metrics that use the same files share.
        offered: to the metric besides.

    Returns:
        The metric.

    Raises:
        ValueError: the reward is a sum whose scales are not known.
        Exception: what building it raises.

    Example:
        See `flowbp.evaluate.container.EvaluationContainer`.
    """
    # Late, because the registries name what is in this file.
    from flowbp.settings.registries import METRICS, REWARDS

    built: Any = component.build(label=label, device=device, towers=towers, **offered)
    is_reward = METRICS.origin_of(component.name) is REWARDS
    return _rewarding(label, built) if is_reward else built


def _rewarding(label: str, reward: Reward | UncalibratedReward) -> RewardMetric:
    if isinstance(reward, UncalibratedReward):
        raise ValueError(
            f"`{label}` is a sum whose parts {', '.join(reward.missing)} have no `mean` and `std`; "
            "take those of the run's calibration.json"
        )
    return RewardMetric(label, reward)
