"""What only several sections together can get wrong, found before any model is loaded."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from flowbp.configuration.problems import shown
from flowbp.configuration.tree import Step
from flowbp.core import Plan
from flowbp.evaluation import Sampling
from flowbp.files import PARTIAL
from flowbp.settings.devices import chosen_device, device_fault
from flowbp.settings.intervals import CHECKS_OF_INTERVALS, Found
from flowbp.settings.rewards import faults, weighted_reward
from flowbp.settings.schema import Settings
from flowbp.training import AUTO

LOCK = ".lock"
"""The file that a process holds locked while it works in a run's folder."""

REHEARSAL = f".rehearsal{PARTIAL}"
"""The folder in a run's that a try of saving writes to, and removes, before the run begins."""

_START_SHARE = 0.5
"""The largest part of a run's average that its starting weights may make up."""


Check = Callable[[Any], Found]
"""Finds what sections get wrong together; what it asks for is sound, see `answers`."""


def checks_of_run(*, resume: bool = False) -> tuple[Check, ...]:
    """What finds what does not fit together, or not on this machine.

    Each asks for as little as it can, so that a mistake elsewhere does not keep it from its answer.

    Args:
        resume: whether the run goes on in its folder, which is then not empty.

    Returns:
        Functions of the settings.

    Example:
        See `load`.
    """
    return (
        partial(_of_folder, resume=resume),
        _of_device,
        _of_reward,
        _of_method,
        _of_schedule,
        _of_averaging,
        _of_judge,
        _of_guidance,
        _of_samples,
        *CHECKS_OF_INTERVALS,
    )


def example_plan(settings: Settings) -> Plan:
    """What the method may draw on the sampling's grid.

    Where that is the model's, which is only known once it is loaded, one of shift 3 stands for it,
    so that rules which agree on even steps alone are told apart.

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
    return _drawn(settings, settings.run.seed)


def _drawn(settings: Settings, seed: int) -> Plan:
    sampling = settings.sampling
    known = sampling.grid.known(sampling.steps)
    even = torch.linspace(1, 0, sampling.steps + 1)
    grid = 3 * even / (1 + 2 * even) if known is None else known
    return settings.method.draw(grid, torch.Generator().manual_seed(seed))


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
    if path.is_symlink():
        return False
    if path.is_dir():
        return path.name == REHEARSAL
    return path.is_file() and (path.name == LOCK or path.name.endswith(PARTIAL))


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
    # `.` and `..` have no name of their own, and the root has none at all.
    named = folder if folder.name not in ("", "..") else folder.resolve()
    if not named.name:
        named = named / "run"
    numbered = (named.with_name(f"{named.name}-{number}") for number in itertools.count(2))
    return next(other for other in numbered if not other.exists())


def fault_of_folder(section: str, folder: Path, *, taken: str, resume: bool) -> Found:
    """What is wrong with where something writes.

    Args:
        section: that holds `folder`.
        folder: must be new or empty, unless what is in it goes on.
        taken: what to say where the folder is not empty, with `{free}` for a free one.
        resume: whether what is in the folder goes on.

    Yields:
        The keys that lead to the fault, and the fault.

    Example:
        >>> list(fault_of_folder("run", Path("runs/new"), taken="", resume=False))
        []
    """
    path: tuple[Step, ...] = (section, "folder")
    try:
        there = next(place for place in (folder, *folder.absolute().parents) if _exists(place))
        if not there.is_dir():
            yield path, f"is {folder}, and {there} is no folder; name another folder"
        elif not os.access(there, os.W_OK | os.X_OK):
            yield path, f"is {folder}, and nothing may be written to {there}; name another folder"
        elif not resume and occupied(folder):
            free = f"{section}.folder={free_folder(folder)}"
            yield path, f"is {folder}, which is not empty{taken.format(free=free)}"
    except OSError as error:
        name = shown(str(folder))
        yield path, f"is {name}, which cannot be used ({error.strerror}); name another folder"


def _exists(place: Path) -> bool:
    # A link that leads nowhere is in the way too. Unlike Path's, this raises what is wrong.
    try:
        os.lstat(place)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def fault_of_device(section: str, device: str) -> Found:
    """What is wrong with what something runs on.

    Args:
        section: that holds `device`.
        device: `auto` or one of torch's.

    Yields:
        The keys that lead to the fault, and the fault.

    Example:
        >>> list(fault_of_device("run", "cpu"))
        []
    """
    wrong = device_fault(device)
    if wrong is not None:
        yield (section, "device"), wrong


def _of_folder(settings: Settings, *, resume: bool) -> Found:
    taken = (
        ", and nothing saved is ever overwritten; name another, such as {free}, or add --resume to "
        "go on with the run that is there"
    )
    return fault_of_folder("run", settings.run.folder, taken=taken, resume=resume)


def _of_device(settings: Settings) -> Found:
    return fault_of_device("run", settings.run.device)


def _of_reward(settings: Settings) -> Found:
    reward = settings.reward
    if reward.target is weighted_reward:
        for path, message in faults(**reward.arguments):
            yield ("reward", *path), message


def _of_method(settings: Settings) -> Found:
    # Of any seed, so that a wrong one hides nothing.
    try:
        _drawn(settings, 0)
    except (ValueError, TypeError) as error:
        yield ("method",), str(error)


def _of_schedule(settings: Settings) -> Found:
    try:
        settings.schedule.factor(0, settings.training.steps)
    except ValueError as error:
        yield ("schedule",), str(error)


def _of_averaging(settings: Settings) -> Found:
    averaging, steps = settings.training.averaging, settings.training.steps
    share = averaging.start_share(steps) if averaging else 0.0
    if averaging and share > _START_SHARE:
        yield (
            ("training", "averaging"),
            f"has decay {averaging.decay:g}, and after {steps} steps the starting weights would "
            f"still make up {share:.0%} of what is saved; write training.averaging.warmup=true, "
            "a lower decay, or training.averaging=null",
        )


def _of_judge(settings: Settings) -> Found:
    if settings.judge is not None and settings.evaluation is None:
        yield (
            ("judge",),
            f"is {settings.judge.name!r}, and without an `evaluation` nothing is judged; "
            "write that section or judge=null",
        )


def _of_guidance(settings: Settings) -> Found:
    try:
        evaluation_sampling(settings)
    except ValueError as error:
        yield ("evaluation",), str(error)


def _of_samples(settings: Settings) -> Found:
    if settings.samples is None or settings.evaluation is None:
        return
    there, count = len(settings.evaluation.prompts.prompts()), settings.samples.count
    if count > there:
        yield (
            ("samples", "count"),
            f"must be in [1, {there}], the number of held-out prompts, got {count}",
        )
