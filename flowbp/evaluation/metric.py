"""What judges pictures: rewards, judges and detectors behind one protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import attrs
from torch import Tensor

from flowbp.evaluation.scale import Scale
from flowbp.evaluation.scoring import WHOLE, judged, rewarded
from flowbp.evaluation.validators import not_empty

if TYPE_CHECKING:
    from flowbp.evaluation.evaluate import HeldOut, Judge
    from flowbp.rewards.reward import Reward


class Metric(Protocol):
    """Judges pictures; need not be differentiable.

    An attribute `scales` may say what its columns' numbers are, see `Scale`, and an attribute
    `totals` which columns have their means averaged.
    """

    def __call__(self, images: Tensor, prompts: Sequence[HeldOut]) -> Mapping[str, Tensor]:
        """Judge each picture.

        Args:
            images: (B, 3, H, W) in [0, 1].
            prompts: B prompts, each with its kind.

        Returns:
            By the name of a column (B,) numbers each, NaN where the column says nothing of a
            picture; the same columns for every batch.
        """


@attrs.frozen
class RewardMetric:
    """A reward as a metric: one column of its label, and one for each part of a composed reward.

    Args:
        label: name of the column; parts are ``label.part``.
        reward: the score.

    Example:
        >>> import torch
        >>> from flowbp.evaluation.evaluate import HeldOutPrompt
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
            self.label if name == WHOLE else f"{self.label}.{name}": figures
            for name, figures in found.items()
        }


@attrs.frozen
class JudgeMetric:
    """A judge as a metric: one column of its label, 1 for pass and 0 for fail.

    Args:
        label: name of the column.
        judge: passes or fails pictures.

    Example:
        >>> import torch
        >>> from flowbp.evaluation.evaluate import HeldOutPrompt
        >>> white = JudgeMetric("white", lambda images, prompts: images.amin((1, 2, 3)).floor())
        >>> white(torch.zeros(1, 3, 2, 2), [HeldOutPrompt("snow")])
        {'white': tensor([0.], dtype=torch.float64)}
    """

    label: str = attrs.field(validator=not_empty)
    judge: Judge

    @property
    def scales(self) -> Mapping[str, Scale]:
        """Its column holds verdicts."""
        return {self.label: Scale(verdict=True)}

    def __call__(self, images: Tensor, prompts: Sequence[HeldOut]) -> Mapping[str, Tensor]:
        """Judge the pictures ``(B, 3, H, W)``; ``(B,)`` of 1 and 0."""
        return {self.label: judged(images, [prompt.text for prompt in prompts], self.judge)}
