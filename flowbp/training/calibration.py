"""The scales of a composed reward, measured once on the base model and kept in a file."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import attrs
import torch
from torch import Tensor

from flowbp.adapters.backbone import Backbone
from flowbp.component_errors import wrong
from flowbp.config import DamagedError, read_sealed, sealed
from flowbp.evaluation import Progress, Sampling, scored_batches, take_part
from flowbp.files import write_atomically
from flowbp.rewards import Normalisation, Reward, RewardPart, UncalibratedReward
from flowbp.rewards.weighted import part_scores
from flowbp.training.prompts import PromptSource, drawn
from flowbp.training.randomness import generator
from flowbp.training.ranks import ALONE, Ranks
from flowbp.validators import integer

_FORMAT = 1


@attrs.frozen(kw_only=True)
class _Part:
    """The scale of one part, and whether it was measured."""

    mean: float
    std: float
    measured: bool


@attrs.frozen(kw_only=True)
class _Calibration:
    """What the file holds."""

    format: int
    pictures: int = attrs.field(validator=integer(0))
    parts: Mapping[str, _Part]


def _kept(path: Path, labels: Iterable[str]) -> dict[str, Normalisation]:
    """The scales on file, to the last bit."""
    cure = "restore it from a copy, or begin a new run in another folder"
    tree = read_sealed(_Calibration, path, cure=cure)
    if tree.format != _FORMAT:
        problem = f"is of format {tree.format}, and this version reads {_FORMAT}"
        raise DamagedError(path, problem, cure)
    wanted = list(labels)
    if set(tree.parts) != set(wanted):
        raise DamagedError(path, f"is of the parts {list(tree.parts)}, not of {wanted}", cure)
    try:
        return {label: Normalisation(part.mean, part.std) for label, part in tree.parts.items()}
    except ValueError as error:
        raise DamagedError(path, f"is damaged ({error})", cure) from error


# A constant score differs between batches by its rounding, some 1e-7 of its size.
_LEAST_SPREAD = 1e-6


@attrs.frozen(kw_only=True)
class Calibration:
    """Where, on what and how scales are measured, apart from the run's own random streams."""

    path: Path
    seed: int
    sampling: Sampling

    @property
    def noise_seed(self) -> int:
        """Of the pictures' noise, a function of the run's seed."""
        return generator(self.seed, "calibration noise").initial_seed()


def calibration_prompts(reward: object, prompts: PromptSource, seed: int) -> tuple[str, ...]:
    """The training prompts that a reward is calibrated on."""
    if not isinstance(reward, UncalibratedReward):
        return ()
    stream = iter(prompts.stream(generator(seed, "calibration prompts")))
    return tuple(drawn(prompts, stream, reward.prompts))


def calibrated(
    reward: Reward | UncalibratedReward,
    backbone: Backbone,
    prompts: PromptSource,
    calibration: Calibration,
    *,
    progress: Progress | None = None,
    ranks: Ranks = ALONE,
) -> Reward:
    """Give a reward the scales that it lacks: those of the file, else measured and written there.

    They are measured on the backbone as it is, which has to be the base model. What is on file is
    never measured again, so that a run that goes on has the very same reward. Of several processes
    the first gets the scales, where the others call `take_part_in_calibration`.
    """
    if not isinstance(reward, UncalibratedReward):
        return reward
    if calibration.path.exists():
        kept = _kept(calibration.path, reward.parts)
        return reward.calibrated({label: kept[label] for label in reward.missing})
    texts = calibration_prompts(reward, prompts, calibration.seed)
    missing = {label: reward.parts[label] for label in reward.missing}
    measured = _measured(backbone, missing, texts, calibration, progress=progress, ranks=ranks)
    done = reward.calibrated(measured)
    parts = {
        label: _Part(mean=scale.mean, std=scale.std, measured=label in measured)
        for label, scale in done.normalisations.items()
    }
    tree = _Calibration(format=_FORMAT, pictures=len(texts), parts=parts)
    write_atomically(calibration.path, sealed(attrs.asdict(tree)))
    return done


def take_part_in_calibration(
    reward: Reward | UncalibratedReward,
    backbone: Backbone,
    prompts: Sequence[str],
    calibration: Calibration,
    ranks: Ranks,
) -> None:
    """Sample and score what falls to another process than the first, which measures."""
    if isinstance(reward, UncalibratedReward):
        missing = {label: reward.parts[label] for label in reward.missing}
        seed, sampling = calibration.noise_seed, calibration.sampling
        take_part(backbone, prompts, seed, sampling, ranks, score=_scoring(missing, prompts))


def _measured(
    backbone: Backbone,
    parts: Mapping[str, RewardPart],
    prompts: Sequence[str],
    calibration: Calibration,
    *,
    progress: Progress | None = None,
    ranks: Ranks = ALONE,
) -> dict[str, Normalisation]:
    """Mean and standard deviation of each part's raw scores, over one picture for each prompt."""
    scores: dict[str, list[Tensor]] = {label: [] for label in parts}
    seed, sampling, score = calibration.noise_seed, calibration.sampling, _scoring(parts, prompts)
    for chosen, _, found in scored_batches(backbone, prompts, seed, sampling, score, ranks=ranks):
        for label, raw in found.items():
            scores[label].append(raw)
        if progress is not None:
            progress(chosen.stop, len(prompts))
    return {label: _normalisation(label, torch.cat(raw)) for label, raw in scores.items()}


def _scoring(
    parts: Mapping[str, RewardPart], prompts: Sequence[str]
) -> Callable[[slice, Tensor], Mapping[str, Tensor]]:
    """What calibration has of a batch: the raw scores of each part, in float64 on the CPU."""

    @torch.no_grad()
    def score(chosen: slice, images: Tensor) -> Mapping[str, Tensor]:
        texts, scores = list(prompts[chosen]), dict[str, Tensor]()
        for label, part in parts.items():
            scores[label] = raw = part_scores(label, part, images, texts).double().cpu()
            for value, prompt in zip(raw.tolist(), texts, strict=True):
                if not math.isfinite(value):
                    problem = (
                        f"must return finite scores, got {value}; look for a reward that overflows "
                        "in low precision, or divides by something that can be 0"
                    )
                    raise wrong(f"reward's part `{label}`", part.reward, problem, [prompt])
        return scores

    return score


def _normalisation(label: str, raw: Tensor) -> Normalisation:
    mean, std = float(raw.mean()), float(raw.std())
    if std <= _LEAST_SPREAD * float(raw.abs().max()):
        raise ValueError(
            f"`{label}`, a part of the reward, must not give all {len(raw)} pictures the same "
            f"score, got {mean:.6g} with a standard deviation of {std:.3g}; remove the part, give "
            "its `mean` and `std`, or calibrate on more prompts"
        )
    return Normalisation(mean, std)
