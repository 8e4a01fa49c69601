"""How a weighted sum of rewards is written in YAML, and built."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import attrs
import torch

from flowbp.config import Component
from flowbp.limits import COUNT
from flowbp.rewards import (
    TOWERS,
    Normalisation,
    Reward,
    RewardPart,
    Towers,
    UncalibratedReward,
    WeightedReward,
)
from flowbp.rewards.weighted import check_labels, check_weight
from flowbp.validators import integer


def _weight(_: object, __: attrs.Attribute[float], value: float) -> None:
    check_weight(value)


@attrs.frozen(kw_only=True)
class PartSettings:
    """One reward of a weighted sum.

    Args:
        reward: by its name, with its own keys.
        weight: of its normalised score; below 0 the score is to fall.
        mean: of its raw score; null measures it.
        std: of its raw score; null measures it.
    """

    reward: Component[Reward]
    weight: float = attrs.field(default=1.0, validator=_weight)
    mean: float | None = None
    std: float | None = None

    def __attrs_post_init__(self) -> None:
        """Refuse half a normalisation, and one that cannot be."""
        if (self.mean is None) != (self.std is None):
            absent = "mean" if self.mean is None else "std"
            raise ValueError(
                f"`{absent}` is null, and the other of `mean` and `std` is given; give both, or "
                "neither to have them measured"
            )
        _ = self.normalisation

    @property
    def normalisation(self) -> Normalisation | None:
        """What is given, None if it is to be measured."""
        if self.mean is None or self.std is None:
            return None
        return Normalisation(self.mean, self.std)


@attrs.frozen(kw_only=True)
class CalibrationSettings:
    """How the scales of a reward's parts are measured, once and before training.

    Args:
        prompts: of the training source; one picture of the base model for each.
    """

    prompts: int = attrs.field(default=64, validator=integer(2, COUNT))


def weighted_reward(
    *,
    parts: Mapping[str, PartSettings],
    calibration: CalibrationSettings | None = None,
    device: torch.device | str = "cpu",
    towers: Towers = TOWERS,
) -> WeightedReward | UncalibratedReward:
    """A weighted sum of rewards, each brought to a common scale.

    Args:
        parts: the rewards, by a label of your own.
        calibration: measures the scales of the parts that give no `mean` and `std`; None where all
            give them.
        device: where the rewards run.
        towers: the pool in which their models are shared.
    """
    for path, message in faults(parts, calibration):
        raise ValueError(f"`{path[-1]}` {message}" if path else message)
    built = {}
    for label, part in parts.items():
        try:
            built[label] = RewardPart(part.reward.build(device=device, towers=towers), part.weight)
        except Exception as error:
            error.add_note(f"raised while the reward's part `{label}` was built")
            raise
    scales = {label: part.normalisation for label, part in parts.items()}
    given = {label: scale for label, scale in scales.items() if scale is not None}
    if calibration is None:
        return WeightedReward(built, given)
    return UncalibratedReward(built, given, prompts=calibration.prompts)


def faults(
    parts: Mapping[str, PartSettings], calibration: CalibrationSettings | None = None
) -> Iterator[tuple[tuple[str, ...], str]]:
    """What is wrong with a weighted sum, found without building anything of it."""
    try:
        check_labels(parts)
    except ValueError as error:
        yield (), str(error)
        return
    missing = [label for label, part in parts.items() if part.normalisation is None]
    if missing and calibration is None:
        for label in missing:
            yield (
                ("parts", label),
                "has no `mean` and `std`, and there is no `calibration` to measure them; write "
                "calibration: {prompts: 64} beside `parts`, or mean: 0 and std: 1 for the raw "
                "score",
            )
    if calibration is not None and not missing:
        yield (
            (),
            "`calibration` would measure nothing, as every part has its `mean` and `std`; remove "
            "it, or those of a part",
        )
