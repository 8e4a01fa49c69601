"""Which checkpoints a run can go on from, found without loading anything."""

from __future__ import annotations

import math
import re
from pathlib import Path

import attrs

from flowbp.configuration import DamagedError
from flowbp.training.checkpoint import CheckpointError
from flowbp.training.manifest import MANIFEST, TRAINING, damage, read_manifest
from flowbp.training.saved_state import REST

_STATE = f"{TRAINING}/{REST}"
_NAME = re.compile(r"(?:(step|best|interrupted|stopped)-(\d+)|final)")


@attrs.frozen
class Saved:
    """A checkpoint as it was found on the disk.

    Args:
        place: its folder.
        step: after which it was saved; infinite for a damaged one whose name does not tell.
        problem: why no run can go on from it, or None.

    Example:
        >>> Saved(Path("runs/a/checkpoints/step-000020"), 20, None).problem is None
        True
    """

    place: Path
    step: float
    problem: str | None


def inspect(place: Path, identity: str) -> Saved:
    """Look whether a checkpoint is of this run and has all its files.

    Of these it reads the state of training alone, which is small.

    Args:
        place: its folder.
        identity: of the run.

    Returns:
        What was found.

    Example:
        >>> from tempfile import mkdtemp
        >>> from flowbp.training.manifest import write_manifest
        >>> place = Path(mkdtemp()) / "step-000020"
        >>> place.mkdir()
        >>> write_manifest(place, identity="mine", step=20)
        >>> inspect(place, "mine").problem, inspect(place, "other").problem
        (None, 'it was saved by a run of another configuration')
    """
    number = (_NAME.fullmatch(place.name) or [None] * 3)[2]
    named = int(number) if number is not None else math.inf
    try:
        manifest = read_manifest(place)
    except DamagedError as error:
        return Saved(place, named, f"its {MANIFEST} {error.problem}")
    step, theirs = manifest.step, manifest.identity
    if step is None or theirs is None:
        return Saved(place, named, "it has no state of training")
    if named not in (step, math.inf):
        return Saved(place, named, f"it was saved after step {step}, which is not what it is named")
    if theirs != identity:
        return Saved(place, step, "it was saved by a run of another configuration")
    # A manifest of another step may lie here: the files have the same names, often the same sizes.
    problem = damage(place, manifest, counts=_STATE.__eq__)
    return Saved(place, step if problem is None else named, problem)


def inspect_content(place: Path, identity: str) -> Saved:
    """Look whether a checkpoint is of this run, and every byte of it as it was written.

    Args:
        place: its folder.
        identity: of the run.

    Returns:
        What was found.

    Example:
        See `inspect`, which looks at less.
    """
    found = inspect(place, identity)
    if found.problem is not None:
        return found
    return attrs.evolve(found, problem=damage(place, read_manifest(place)))


def saved_checkpoints(folder: Path, identity: str) -> tuple[Saved, ...]:
    """All checkpoints that a run wrote to go on from, damaged ones too, by their step.

    Args:
        folder: of the checkpoints.
        identity: of the run.

    Returns:
        `step-…`, `best-…`, `interrupted-…`, `stopped-…` and `final`, the newest last. One that was
        saved in the middle of an update has no state of training, and is not among them.

    Example:
        >>> saved_checkpoints(Path("no-such-folder"), "mine")
        ()
    """
    places = [path for path in folder.glob("*") if _NAME.fullmatch(path.name)]
    found = (inspect(place, identity) for place in places if not _is_model_alone(place))
    return tuple(sorted(found, key=lambda saved: (saved.step, saved.place.name)))


def newest_checkpoint(folder: Path, identity: str) -> Saved | None:
    """The checkpoint that a run goes on from.

    Args:
        folder: of the checkpoints.
        identity: of the run.

    Returns:
        The newest; None if there is none at all.

    Raises:
        CheckpointError: the newest is damaged or of another run. Nothing is passed over silently:
            the message names the newest one that is sound, which the next attempt takes once the
            other is moved away.

    Example:
        >>> newest_checkpoint(Path("no-such-folder"), "mine") is None
        True
    """
    found = saved_checkpoints(folder, identity)
    if not found:
        return None
    newest = inspect_content(found[-1].place, identity)
    if newest.problem is None:
        return newest
    others = (inspect_content(saved.place, identity) for saved in reversed(found[:-1]))
    sound = next((saved.place.name for saved in others if saved.problem is None), None)
    cure = (
        f"move it away, and the run goes on from the newest sound one, {sound}"
        if sound
        else "there is no sound one besides; move it away, and the run starts again from step 0"
    )
    raise CheckpointError(
        f"the checkpoint {newest.place} cannot be resumed: {newest.problem}; {cure}"
    )


def _is_model_alone(place: Path) -> bool:
    """Whether it was saved in the middle of an update, so that no run can go on from it."""
    if not place.name.startswith("stopped") or (place / TRAINING).exists():
        return False
    try:
        return read_manifest(place).identity is None
    except DamagedError:
        return False
