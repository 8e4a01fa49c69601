"""A composed reward is calibrated before anything is scored with it."""

from __future__ import annotations

from flowbp.container import RunContainer
from flowbp.rewards import Reward, UncalibratedReward, WeightedReward
from flowbp.run.resuming import Resumption
from flowbp.run.telling import told_progress


def calibrate(container: RunContainer, found: Resumption | None) -> None:
    """Measure the scales that the reward lacks, or read them back, and print all of them.

    Args:
        container: of the run, the backbone of which is still the base model.
        found: where the run goes on; None for a new one.

    Raises:
        ValueError: the scales cannot be measured or read, or those of a run that has a checkpoint
            are gone.

    Example:
        See `flowbp.run.execution.execute`.
    """
    path = container.calibration().path
    wanted = isinstance(container.reward(), UncalibratedReward)
    there = path.exists()
    if not wanted:
        if isinstance(container.reward(), WeightedReward):
            print(scales(container.reward(), "the reward's scales, as given"), flush=True)
        return
    if found is not None and found.checkpoint is not None and not there:
        raise ValueError(
            f"{path} is gone, and the steps that are done were trained with the scales in it; "
            "restore it from a copy, or begin a new run in another folder"
        )
    count = container.reward().prompts
    if there:
        heading = f"the reward's scales, from {path}"
        reward = container.calibrated()
    else:
        heading = f"the reward's scales, measured on {count} pictures and written to {path}"
        with told_progress("calibrating the reward", count) as progress:
            reward = container.calibrated(progress=progress)
    print(scales(reward, heading), flush=True)


def scales(reward: Reward, heading: str) -> str:
    """The parts of a weighted sum with their weights and scales, a line each.

    Args:
        reward: a weighted sum.
        heading: the first line.

    Returns:
        The lines, without a newline at the end.

    Example:
        >>> from flowbp.rewards import Normalisation, RewardPart
        >>> parts = {"bright": RewardPart(lambda images, prompts: images.mean((1, 2, 3)))}
        >>> print(scales(WeightedReward(parts, {"bright": Normalisation(0.5, 0.25)}), "scales"))
        scales
          bright  weight 1, mean 0.5, standard deviation 0.25
    """
    if not isinstance(reward, WeightedReward):
        raise TypeError(f"`reward` must be a WeightedReward, got {type(reward).__name__}")
    width = max(map(len, reward.parts))
    lines = [
        f"  {label:<{width}}  weight {reward.parts[label].weight:g}, mean {scale.mean:.5g}, "
        f"standard deviation {scale.std:.5g}"
        for label, scale in reward.normalisations.items()
    ]
    return "\n".join([heading, *lines])
