"""Which checkpoints a run can go on from, found without loading anything."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import attrs

from flowbp.training.checkpoint import CheckpointError

TRAINING = "training"
"""The folder of a checkpoint that holds the state of training."""

_MANIFEST, _FORMAT = "manifest.json", 3
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


def write_manifest(checkpoint: Path, identity: str, step: int) -> None:
    """Write down what a checkpoint consists of, so that a part that is lost is missed.

    Args:
        checkpoint: its folder, all else written.
        identity: of the run.
        step: after which it is saved.

    Example:
        See `inspect`.
    """
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file())
    tree = {
        "format": _FORMAT,
        "identity": identity,
        "step": step,
        "files": {path.relative_to(checkpoint).as_posix(): path.stat().st_size for path in files},
    }
    text = json.dumps(tree, indent=1)
    (checkpoint / TRAINING / _MANIFEST).write_text(text + "\n", encoding="utf-8")


def inspect(place: Path, identity: str) -> Saved:
    """Look whether a checkpoint is whole and of this run.

    Args:
        place: its folder.
        identity: of the run.

    Returns:
        What was found.

    Example:
        >>> from tempfile import mkdtemp
        >>> place = Path(mkdtemp()) / "step-000020"
        >>> (place / "training").mkdir(parents=True)
        >>> write_manifest(place, "mine", 20)
        >>> inspect(place, "mine").problem, inspect(place, "other").problem
        (None, 'it was saved by a run of another configuration')
    """
    number = (_NAME.fullmatch(place.name) or [None] * 3)[2]
    named = int(number) if number is not None else math.inf
    path = place / TRAINING / _MANIFEST
    if not path.is_file():
        return Saved(place, named, f"it has no {TRAINING}/{_MANIFEST}, so no state of training")
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        form, theirs, step, files = (tree[k] for k in ("format", "identity", "step", "files"))
    except (ValueError, KeyError, TypeError) as error:
        found = f"its {TRAINING}/{_MANIFEST} is damaged ({type(error).__name__}: {error})"
        return Saved(place, named, found)
    if form != _FORMAT:
        return Saved(place, named, f"it is of format {form!r}, and this version reads {_FORMAT}")
    if theirs != identity:
        return Saved(place, step, "it was saved by a run of another configuration")
    for name, size in files.items():
        there = (place / name).stat().st_size if (place / name).is_file() else None
        if there is None:
            return Saved(place, step, f"its file {name} is missing")
        if there != size:
            return Saved(place, step, f"its file {name} has {there} bytes instead of {size}")
    return Saved(place, step, None)


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
    found = (
        inspect(place, identity)
        for place in places
        if (place / TRAINING).exists() or not place.name.startswith("stopped")
    )
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
    newest = found[-1]
    if newest.problem is None:
        return newest
    sound = [saved for saved in found if saved.problem is None]
    cure = (
        f"move it away, and the run goes on from the newest sound one, {sound[-1].place.name}"
        if sound
        else "there is no sound one besides; move it away, and the run starts again from step 0"
    )
    raise CheckpointError(
        f"the checkpoint {newest.place} cannot be resumed: {newest.problem}; {cure}"
    )
