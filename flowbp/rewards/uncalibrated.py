"""A weighted sum of rewards before its scales are known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from flowbp.rewards.part import RewardPart, frozen, labelled
from flowbp.rewards.weighted import Normalisation, WeightedReward


@attrs.frozen(eq=False)
class UncalibratedReward:
    """A weighted sum of which some normalisations are still to be measured on the base model.

    It cannot be called: there is nothing that it could give. See `flowbp.training.calibrated`.

    Args:
        parts: by label.
        given: the normalisations that are known, by label.
        prompts: how many pictures the others are measured on.

    Raises:
        ValueError: no part, a wrong label, a normalisation of no part or of every part, or fewer
            than two prompts.

    Example:
        >>> import torch
        >>> bright = RewardPart(lambda images, prompts: images.mean((1, 2, 3)))
        >>> reward = UncalibratedReward({"bright": bright}, {}, prompts=64)
        >>> reward.missing
        ('bright',)
        >>> reward.calibrated({"bright": Normalisation(0.5, 0.25)})(torch.ones(1, 3, 2, 2), ["a"])
        tensor([2.])
    """

    parts: Mapping[str, RewardPart] = attrs.field(converter=frozen, validator=labelled)
    given: Mapping[str, Normalisation] = attrs.field(converter=frozen)
    prompts: int = attrs.field(kw_only=True)

    @prompts.validator
    def _check_prompts(self, _: Any, value: int) -> None:
        if isinstance(value, bool) or not isinstance(value, int) or value < 2:
            raise ValueError(
                f"`prompts` must be an integer >= 2, got {value!r}; a spread takes two pictures, "
                "and a useful one some dozens"
            )

    def __attrs_post_init__(self) -> None:
        """Refuse figures of unknown parts, and a calibration that would measure nothing."""
        unknown = [label for label in self.given if label not in self.parts]
        if unknown:
            raise ValueError(f"`given` must be of the parts {list(self.parts)}, got {unknown}")
        if not self.missing:
            raise ValueError(
                "`given` has the normalisation of every part, so that nothing is left to measure; "
                "make a WeightedReward of them"
            )

    @property
    def missing(self) -> tuple[str, ...]:
        """The labels whose normalisation is not known."""
        return tuple(label for label in self.parts if label not in self.given)

    def calibrated(self, measured: Mapping[str, Normalisation]) -> WeightedReward:
        """The reward with what was measured.

        Args:
            measured: the normalisations of `missing`.

        Returns:
            A reward that can be called.

        Raises:
            ValueError: they are of other labels.
        """
        if set(measured) != set(self.missing):
            raise ValueError(
                f"`measured` must be of the parts {list(self.missing)}, got {list(measured)}"
            )
        known = {**self.given, **measured}
        return WeightedReward(self.parts, {label: known[label] for label in self.parts})
