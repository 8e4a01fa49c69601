"""The scales of a composed reward, measured once on the base model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs
import torch
from torch import Tensor

from flowbp.adapters.backbone import Backbone
from flowbp.components import wrong
from flowbp.evaluation import Progress, Sampling, generate_batches
from flowbp.rewards import Normalisation, Reward, RewardPart, UncalibratedReward
from flowbp.rewards.part import part_scores
from flowbp.training.calibration_file import read_calibration, write_calibration
from flowbp.training.prompts import PromptSource, drawn
from flowbp.training.randomness import generator

# A constant score differs between batches by its rounding, some 1e-7 of its size.
_LEAST_SPREAD = 1e-6


@attrs.frozen(kw_only=True)
class Calibration:
    """Where, on what and how scales are measured; nothing of it draws from the run's own streams.

    Args:
        path: of the file that keeps them.
        seed: of the run.
        sampling: of the pictures, as in training.

    Example:
        >>> sampling = Sampling(steps=4, height=8, width=8)
        >>> one = Calibration(path=Path("calibration.json"), seed=0, sampling=sampling)
        >>> one.noise_seed == attrs.evolve(one, seed=1).noise_seed
        False
    """

    path: Path
    seed: int
    sampling: Sampling

    @property
    def noise_seed(self) -> int:
        """Of the pictures' noise, a function of the run's seed."""
        return generator(self.seed, "calibration noise").initial_seed()


def calibration_prompts(reward: object, prompts: PromptSource, seed: int) -> tuple[str, ...]:
    """The training prompts that a reward is calibrated on.

    Args:
        reward: any.
        prompts: the training source.
        seed: of the run.

    Returns:
        As many as the reward asks for; none if it is not to be calibrated.

    Example:
        >>> from flowbp.training import PromptList
        >>> part = RewardPart(lambda images, prompts: images.mean((1, 2, 3)))
        >>> reward = UncalibratedReward({"bright": part}, {}, prompts=3)
        >>> calibration_prompts(reward, PromptList(["a circle"]), 0)
        ('a circle', 'a circle', 'a circle')
    """
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
) -> Reward:
    """Give a reward the scales that it lacks: those of the file, else measured and written there.

    They are measured on the backbone as it is, which has to be the base model. What is on file is
    never measured again, so that a run that goes on has the very same reward.

    Args:
        reward: any; one that is not to be calibrated is returned as it is.
        backbone: the base model.
        prompts: the training source.
        calibration: where and how.
        progress: called after every batch of pictures.

    Returns:
        A reward that can be called.

    Raises:
        ValueError: the file is damaged or of other parts, or a part gives all pictures the same
            score.
        ComponentError: a part raised something, or returned no finite score for each picture.
        OSError: the file cannot be written.

    Example:
        See `measure`, which does the measuring.
    """
    if not isinstance(reward, UncalibratedReward):
        return reward
    if calibration.path.exists():
        kept = read_calibration(calibration.path, reward.parts)
        return reward.calibrated({label: kept[label] for label in reward.missing})
    texts = calibration_prompts(reward, prompts, calibration.seed)
    missing = {label: reward.parts[label] for label in reward.missing}
    measured = measure(backbone, missing, texts, calibration, progress=progress)
    done = reward.calibrated(measured)
    write_calibration(calibration.path, done.normalisations, measured, pictures=len(texts))
    return done


@torch.no_grad()
def measure(
    backbone: Backbone,
    parts: Mapping[str, RewardPart],
    prompts: Sequence[str],
    calibration: Calibration,
    *,
    progress: Progress | None = None,
) -> dict[str, Normalisation]:
    """Mean and standard deviation of each part's raw scores, over one picture for each prompt.

    The mean is over n pictures and the deviation over n - 1, in float64.

    Args:
        backbone: samples the pictures.
        parts: by label.
        prompts: n >= 2 of them.
        calibration: sampling and seed.
        progress: called after every batch of pictures.

    Returns:
        The normalisations by label.

    Raises:
        ValueError: a part gives all pictures the same score.
        ComponentError: a part raised something, or returned no finite score for each picture.

    Example:
        >>> from types import SimpleNamespace
        >>> toy = SimpleNamespace(
        ...     module=torch.nn.Identity(),
        ...     device=torch.device("cpu"),
        ...     encode=lambda prompts: torch.zeros(len(prompts), 1),
        ...     noise=lambda count, *, height, width, generator: torch.randn(
        ...         count, 3, height, width, generator=generator
        ...     ),
        ...     sigmas=lambda steps, *, height, width: torch.linspace(1, 0, steps + 1),
        ...     velocity=lambda conditioning: lambda latents, sigma: latents,
        ...     decode=torch.sigmoid,
        ... )
        >>> bright = RewardPart(lambda images, prompts: images.mean((1, 2, 3)))
        >>> how = Calibration(
        ...     path=Path("calibration.json"), seed=0, sampling=Sampling(steps=2, height=4, width=4)
        ... )
        >>> found = measure(toy, {"bright": bright}, ["a circle"] * 16, how)["bright"]
        >>> 0.45 < found.mean < 0.55, 0 < found.std < 0.1
        (True, True)
    """
    scores: dict[str, list[Tensor]] = {label: [] for label in parts}
    for chosen, images in generate_batches(
        backbone, prompts, calibration.noise_seed, calibration.sampling
    ):
        texts = list(prompts[chosen])
        for label, part in parts.items():
            raw = part_scores(label, part, images, texts).double().cpu()
            _refuse_not_finite(label, part, raw, texts)
            scores[label].append(raw)
        if progress is not None:
            progress(chosen.stop, len(prompts))
    return {label: _normalisation(label, torch.cat(raw)) for label, raw in scores.items()}


def _refuse_not_finite(label: str, part: RewardPart, raw: Tensor, prompts: Sequence[str]) -> None:
    for value, prompt in zip(raw.tolist(), prompts, strict=True):
        if value - value != 0:
            problem = (
                f"must return finite scores, got {value}; look for a reward that overflows in low "
                "precision, or divides by something that can be 0"
            )
            raise wrong(f"reward's part `{label}`", part.reward, problem, [prompt])


def _normalisation(label: str, raw: Tensor) -> Normalisation:
    mean, std = float(raw.mean()), float(raw.std())
    if std <= _LEAST_SPREAD * float(raw.abs().max()):
        raise ValueError(
            f"`{label}`, a part of the reward, must not give all {len(raw)} pictures the same "
            f"score, got {mean:.6g} with a standard deviation of {std:.3g}; remove the part, give "
            "its `mean` and `std`, or calibrate on more prompts"
        )
    return Normalisation(mean, std)
