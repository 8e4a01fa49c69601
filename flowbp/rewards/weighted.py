"""A weighted sum of rewards, each brought to a common scale by a fixed mean and deviation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import attrs
from torch import Tensor

from flowbp.limits import label_fault
from flowbp.rewards.reward import InParts, Reward, in_parts
from flowbp.validators import real

RAW, NORMALISED = "raw", "normalised"
"""The two values of each part that are logged, after its label and a dot."""


@attrs.frozen
class Normalisation:
    """`(r - mean) / std`, with a mean and a deviation that stay the same for the whole run.

    Statistics of the running batch are not offered: they would make a sample's reward depend on
    which others share its batch, and hide that the scores rise.
    """

    mean: float = attrs.field(validator=real(float("-inf")))
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
class RewardPart:
    """One reward of a sum; a `weight` below 0 rewards a low score."""

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
    """Refuse a weight under which a part would have no effect, or no meaning."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or value == 0 or value - value != 0:
        raise ValueError(
            f"`weight` must be a finite number other than 0, got {value!r}; remove a part that is "
            "to have no effect"
        )


def check_labels(labels: Mapping[str, Any]) -> None:
    """Refuse no parts, a label that is no plain word, and labels that differ in case only."""
    if not labels:
        raise ValueError("`parts` must hold at least one part, got none; name one by a label")
    fault = label_fault(labels, {})
    if fault:
        raise ValueError(f"`parts` {fault}")


def part_scores(label: str, part: RewardPart, images: Tensor, prompts: Sequence[str]) -> Tensor:
    """The raw scores (B,) of one part, with its label in every error."""
    return in_parts(part.reward, images, prompts, kind=f"reward's part `{label}`").scores


def _read_only(mapping: Mapping[str, Any]) -> Mapping[str, Any]:
    return MappingProxyType(dict(mapping))


def _labelled(_: Any, attribute: attrs.Attribute[Any], value: Mapping[str, Any]) -> None:
    check_labels(value)


@attrs.frozen(eq=False)
class WeightedReward:
    """`R = sum of w_i (r_i - mu_i) / sigma_i`, with every w, mu and sigma fixed.

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

    parts: Mapping[str, RewardPart] = attrs.field(converter=_read_only, validator=_labelled)
    normalisations: Mapping[str, Normalisation] = attrs.field(converter=_read_only)

    def __attrs_post_init__(self) -> None:
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
        """The sum, and of each part `<label>.raw` and `<label>.normalised`, (B,) each."""
        values: dict[str, Tensor] = {}
        terms = []
        for label, part in self.parts.items():
            raw = part_scores(label, part, images, prompts)
            normalised = self.normalisations[label](raw)
            values[f"{label}.{RAW}"], values[f"{label}.{NORMALISED}"] = raw, normalised
            terms.append(part.weight * normalised)
        return InParts(sum(terms[1:], start=terms[0]), values)


@attrs.frozen(eq=False)
class UncalibratedReward:
    """A weighted sum of which some normalisations are still to be measured on the base model.

    It cannot be called before; `flowbp.training.calibrated` measures those that are not `given`,
    on pictures of as many `prompts`.
    """

    parts: Mapping[str, RewardPart] = attrs.field(converter=_read_only, validator=_labelled)
    given: Mapping[str, Normalisation] = attrs.field(converter=_read_only)
    prompts: int = attrs.field(kw_only=True)

    @prompts.validator
    def _check_prompts(self, _: Any, value: int) -> None:
        if isinstance(value, bool) or not isinstance(value, int) or value < 2:
            raise ValueError(
                f"`prompts` must be an integer >= 2, got {value!r}; a spread takes two pictures, "
                "and a useful one some dozens"
            )

    def __attrs_post_init__(self) -> None:
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
        """The reward that can be called, given the normalisations of `missing`."""
        if set(measured) != set(self.missing):
            raise ValueError(
                f"`measured` must be of the parts {list(self.missing)}, got {list(measured)}"
            )
        known = {**self.given, **measured}
        return WeightedReward(self.parts, {label: known[label] for label in self.parts})
