"""What only several sections together can get wrong, found before any model is loaded."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import torch

from flowbp.configuration.tree import Step
from flowbp.core import Plan
from flowbp.evaluation import Sampling
from flowbp.files import PARTIAL
from flowbp.settings.devices import chosen_device
from flowbp.settings.intervals import Found, of_intervals
from flowbp.settings.rewards import faults, weighted_reward
from flowbp.settings.schema import Settings
from flowbp.training import AUTO

LOCK = ".lock"
"""The file that a process holds locked while it works in a run's folder."""

_START_SHARE = 0.5
"""The largest part of a run's average that its starting weights may make up."""


def problems(settings: Settings, *, resume: bool = False) -> Found:
    """Find what does not fit together, or not on this machine.

    Args:
        settings: valid section by section.
        resume: whether the run goes on in its folder, which is then not empty.

    Yields:
        The keys that lead to each fault, and the fault.

    Example:
        See `load`.
    """
    yield from _of_run(settings, resume)
    yield from _of_reward(settings)
    yield from _of_training(settings)
    yield from _of_evaluation(settings)
    yield from of_intervals(settings)


def example_plan(settings: Settings) -> Plan:
    """What the method may draw on the sampling's grid, or an even one where it is the model's.

    Args:
        settings: of the run; its seed is the draw's.

    Returns:
        The plan.

    Raises:
        ValueError: the method does not fit the grid.
        TypeError: the method draws something else than a plan.

    Example:
        See `load`.
    """
    sampling = settings.sampling
    known = sampling.grid.known(sampling.steps)
    grid = torch.linspace(1, 0, sampling.steps + 1) if known is None else known
    return settings.method.draw(grid, torch.Generator().manual_seed(settings.run.seed))


def evaluation_sampling(settings: Settings) -> Sampling | None:
    """How held-out prompts are sampled; None without an evaluation.

    Args:
        settings: of the run.

    Returns:
        The sampling of the training with what `evaluation` says besides.

    Raises:
        ValueError: a negative prompt that `guidance` = 1 would ignore, or a grid of another number
            of steps.

    Example:
        See `load`.
    """
    sampling, evaluation = settings.sampling, settings.evaluation
    if evaluation is None:
        return None
    guidance = sampling.guidance if evaluation.guidance is None else evaluation.guidance
    return Sampling(
        steps=evaluation.steps or sampling.steps,
        height=sampling.height,
        width=sampling.width,
        guidance=guidance,
        negative_prompt=sampling.negative_prompt,
        batch=evaluation.batch,
        decode=_decoded(settings, evaluation.batch),
        grid=evaluation.grid or sampling.grid,
    )


def calibration_sampling(settings: Settings) -> Sampling:
    """How pictures are sampled that a composed reward is calibrated on: as in training.

    Args:
        settings: of the run.

    Returns:
        The sampling of the training, in its portions.

    Example:
        See `flowbp.container.RunContainer`.
    """
    sampling, batching = settings.sampling, settings.batching
    return Sampling(
        steps=sampling.steps,
        height=sampling.height,
        width=sampling.width,
        guidance=sampling.guidance,
        negative_prompt=sampling.negative_prompt,
        batch=batching.samples,
        decode=_decoded(settings, batching.samples),
        grid=sampling.grid,
    )


def _decoded(settings: Settings, batch: int) -> int:
    # Nothing is measured before training; one picture at a time fits if a training step does.
    decode = settings.batching.decode
    if decode != AUTO:
        return decode
    return 1 if chosen_device(settings.run.device).type == "cuda" else batch


def occupied(folder: Path) -> bool:
    """Whether a folder holds anything but what a run leaves that was killed in its first moment.

    Args:
        folder: which need not exist.

    Returns:
        True if it does.

    Example:
        >>> occupied(Path("runs/no-such-run"))
        False
    """
    return folder.is_dir() and not all(_left_behind(path) for path in folder.iterdir())


def _left_behind(path: Path) -> bool:
    named = path.name == LOCK or path.name.endswith(PARTIAL)
    return named and path.is_file() and not path.is_symlink()


def free_folder(folder: Path) -> Path:
    """A folder of nearly the same name that is free.

    Args:
        folder: that is taken.

    Returns:
        The folder with `-2`, `-3`, … after its name.

    Example:
        >>> free_folder(Path("runs/no-such-run"))
        PosixPath('runs/no-such-run-2')
    """
    numbered = (folder.with_name(f"{folder.name}-{number}") for number in itertools.count(2))
    return next(other for other in numbered if not other.exists())


def of_place(section: str, folder: Path, device: str, *, taken: str, resume: bool) -> Found:
    """What is wrong with where something writes and runs.

    Args:
        section: that holds `folder` and `device`.
        folder: must be new or empty, unless what is in it goes on.
        device: `auto` or one of torch's.
        taken: what to say where the folder is not empty, with `{free}` for a free one.
        resume: whether what is in the folder goes on.

    Yields:
        The keys that lead to a fault, and the fault.

    Example:
        >>> list(of_place("run", Path("runs/new"), "cpu", taken="", resume=False))
        []
    """
    path: tuple[Step, ...] = (section, "folder")
    places = (folder, *folder.parents)
    blocking = next((p for p in places if os.path.lexists(p) and not p.is_dir()), None)
    if blocking is not None:
        what = "a link that leads to no folder" if blocking.is_symlink() else "a file"
        yield path, f"is {folder}, and {blocking} is {what}; name another folder"
    elif not resume and occupied(folder):
        free = f"{section}.folder={free_folder(folder)}"
        yield path, f"is {folder}, which is not empty{taken.format(free=free)}"
    if device.startswith("cuda") and (torch.device(device).index or 0) >= torch.cuda.device_count():
        yield (
            (section, "device"),
            f"is {device!r}, and torch sees {torch.cuda.device_count()} CUDA devices; "
            f"write {section}.device=auto or {section}.device=cpu",
        )


def _of_run(settings: Settings, resume: bool) -> Found:
    taken = (
        ", and nothing saved is ever overwritten; name another, such as {free}, or add --resume to "
        "go on with the run that is there"
    )
    return of_place("run", settings.run.folder, settings.run.device, taken=taken, resume=resume)


def _of_reward(settings: Settings) -> Found:
    reward = settings.reward
    if reward.target is weighted_reward:
        for path, message in faults(**reward.arguments):
            yield ("reward", *path), message


def _of_training(settings: Settings) -> Found:
    try:
        example_plan(settings)
    except (ValueError, TypeError) as error:
        yield ("method",), str(error)
    try:
        settings.schedule.factor(0, settings.training.steps)
    except ValueError as error:
        yield ("schedule",), str(error)
    averaging, steps = settings.training.averaging, settings.training.steps
    share = averaging.start_share(steps) if averaging else 0.0
    if averaging and share > _START_SHARE:
        yield (
            ("training", "averaging"),
            f"has decay {averaging.decay:g}, and after {steps} steps the starting weights would "
            f"still make up {share:.0%} of what is saved; write training.averaging.warmup=true, "
            "a lower decay, or training.averaging=null",
        )


def _of_evaluation(settings: Settings) -> Found:
    evaluation, samples = settings.evaluation, settings.samples
    if evaluation is None:
        if settings.judge is not None:
            yield (
                ("judge",),
                f"is {settings.judge.name!r}, and without an `evaluation` nothing is judged; "
                "write that section or judge=null",
            )
        return
    try:
        evaluation_sampling(settings)
    except ValueError as error:
        yield ("evaluation",), str(error)
    there = len(evaluation.prompts.prompts())
    if samples is not None and samples.count > there:
        yield (
            ("samples", "count"),
            f"must be in [1, {there}], the number of held-out prompts, got {samples.count}",
        )
