"""One reward of a sum: its weight, its label, and its name in what goes wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import attrs
from torch import Tensor

from flowbp.limits import label_fault
from flowbp.rewards.figures import in_parts
from flowbp.rewards.reward import Reward


@attrs.frozen(eq=False)
class RewardPart:
    """One reward of a sum.

    Args:
        reward: gives the raw scores.
        weight: of the normalised score in the sum; below 0 the score is to fall.

    Raises:
        ValueError: `weight` is 0 or not finite, or `reward` cannot be called.

    Example:
        >>> RewardPart(lambda images, prompts: images.mean((1, 2, 3))).weight
        1.0
    """

    reward: Reward = attrs.field()
    weight: float = attrs.field(default=1.0)

    @reward.validator
    def _check_reward(self, _: Any, value: Reward) -> None:
        if not callable(value) or isinstance(value, type):
            raise ValueError(
                f"`reward` must be called with images and prompts, got {value!r}; a composition "
                "cannot be a part of another before it is calibrated, list its parts instead"
            )

    @weight.validator
    def _check_weight(self, _: Any, value: float) -> None:
        check_weight(value)


def check_weight(value: float) -> None:
    """Refuse a weight under which a part would have no effect, or no meaning.

    Args:
        value: of a part.

    Raises:
        ValueError: it is 0 or not a finite number.

    Example:
        >>> check_weight(-0.5)
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or value == 0 or value - value != 0:
        raise ValueError(
            f"`weight` must be a finite number other than 0, got {value!r}; remove a part that is "
            "to have no effect"
        )


def check_labels(labels: Mapping[str, Any]) -> None:
    """Refuse parts without a usable label.

    Args:
        labels: parts by label.

    Raises:
        ValueError: there is no part, a label is no plain word, or two differ in case only.

    Example:
        >>> check_labels({"likeness": "a part"})
    """
    if not labels:
        raise ValueError("`parts` must hold at least one part, got none; name one by a label")
    fault = label_fault(labels, {})
    if fault:
        raise ValueError(f"`parts` {fault}")


def part_scores(label: str, part: RewardPart, images: Tensor, prompts: Sequence[str]) -> Tensor:
    """The raw scores of one part, with its label in whatever goes wrong.

    Args:
        label: of the part.
        part: its reward.
        images: (B, 3, H, W) in [0, 1].
        prompts: B prompts.

    Returns:
        (B,) raw scores.

    Raises:
        ComponentError: the part raised something, or returned another shape, or no gradient where
            the pictures carry one.

    Example:
        >>> import torch
        >>> part = RewardPart(lambda images, prompts: images.mean((1, 2, 3)))
        >>> part_scores("brightness", part, torch.ones(1, 3, 2, 2), ["a"])
        tensor([1.])
    """
    return in_parts(part.reward, images, prompts, kind=f"reward's part `{label}`").scores


def frozen(mapping: Mapping[str, Any]) -> Mapping[str, Any]:
    """A copy of a mapping that nobody can change: a converter."""
    return MappingProxyType(dict(mapping))


def labelled(_: Any, attribute: attrs.Attribute[Any], value: Mapping[str, Any]) -> None:
    """A validator: `check_labels`."""
    check_labels(value)
