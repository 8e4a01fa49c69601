"""A weighted sum of rewards, each brought to a common scale by figures that never change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from torch import Tensor

from flowbp.core._validators import real
from flowbp.rewards.figures import InParts
from flowbp.rewards.part import RewardPart, frozen, labelled, part_scores

RAW, NORMALISED = "raw", "normalised"
"""What is told of each part, after its label and a dot."""

_any_number = real(float("-inf"))


@attrs.frozen
class Normalisation:
    """`(r - mean) / std`, with figures that stay as they are for the whole run.

    Statistics of the running batch are not offered: they would make a sample's reward depend on
    which others share its batch, and hide that the scores rise.

    Args:
        mean: mu, of the raw score.
        std: sigma, of the raw score.

    Raises:
        ValueError: `mean` is not finite, or `std` is not a positive number.

    Example:
        >>> import torch
        >>> Normalisation(0.25, 0.5)(torch.tensor([0.25, 1.25]))
        tensor([0., 2.])
    """

    mean: float = attrs.field(validator=_any_number)
    std: float = attrs.field()

    @std.validator
    def _check_std(self, _: Any, value: float) -> None:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not 0 < value < float("inf"):
            raise ValueError(
                f"`std` must be a positive number, got {value!r}; a part whose score never "
                "changes has nothing to train on, remove it, and 1 leaves the raw scale as it is"
            )

    def __call__(self, scores: Tensor, /) -> Tensor:
        """The normalised scores, (B,), of raw ones, (B,)."""
        return (scores - self.mean) / self.std


@attrs.frozen(eq=False)
class WeightedReward:
    """`R = sum of w_i (r_i - mu_i) / sigma_i`, every figure frozen.

    The gradient is the sum of the parts' own, each times `w_i / sigma_i`. Parts share the
    pictures' graph, so that the towers of all of them are alive together in the backward pass of
    a portion; a smaller `batching.decode` makes up for it, and changes no value.

    Args:
        parts: by label, which names them in the metrics.
        normalisations: one for each label.

    Raises:
        ValueError: no part, a label that is no plain word, or labels of the two that differ.

    Example:
        >>> import torch
        >>> bright = RewardPart(lambda images, prompts: images.mean((1, 2, 3)), weight=2.0)
        >>> reward = WeightedReward({"bright": bright}, {"bright": Normalisation(0.5, 0.25)})
        >>> found = reward.in_parts(torch.ones(1, 3, 2, 2), ["a"])
        >>> found.scores, sorted(found.parts)
        (tensor([4.]), ['bright.normalised', 'bright.raw'])
    """

    parts: Mapping[str, RewardPart] = attrs.field(converter=frozen, validator=labelled)
    normalisations: Mapping[str, Normalisation] = attrs.field(converter=frozen)

    def __attrs_post_init__(self) -> None:
        """Refuse a part without its normalisation, and the reverse."""
        if self.parts.keys() != self.normalisations.keys():
            raise ValueError(
                f"`normalisations` must be of the parts {list(self.parts)}, got "
                f"{list(self.normalisations)}; Normalisation(0, 1) leaves a score as it is, and "
                "UncalibratedReward measures what is not known"
            )

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Score B pictures (B, 3, H, W) against B prompts, as (B,)."""
        return self.in_parts(images, prompts).scores

    def in_parts(self, images: Tensor, prompts: Sequence[str]) -> InParts:
        """Score pictures and tell each part.

        Args:
            images: (B, 3, H, W) in [0, 1].
            prompts: B prompts.

        Returns:
            The sum, (B,), and of each part `<label>.raw` and `<label>.normalised`, (B,).

        Raises:
            ComponentError: a part raised something, or returned another shape, or no gradient
                where the pictures carry one.
        """
        figures: dict[str, Tensor] = {}
        terms = []
        for label, part in self.parts.items():
            raw = part_scores(label, part, images, prompts)
            normalised = self.normalisations[label](raw)
            figures[f"{label}.{RAW}"], figures[f"{label}.{NORMALISED}"] = raw, normalised
            terms.append(part.weight * normalised)
        return InParts(sum(terms[1:], start=terms[0]), figures)
