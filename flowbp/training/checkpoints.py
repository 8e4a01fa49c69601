"""Which checkpoints a run writes, and under which weights."""

from __future__ import annotations

import errno
import warnings
from pathlib import Path
from typing import Any

import attrs

from flowbp.core._validators import integer
from flowbp.training.checkpoint import (
    CheckpointError,
    Savable,
    recover,
    remove_checkpoint,
    save_checkpoint,
)
from flowbp.training.inspection import Saved, newest_checkpoint, saved_checkpoints
from flowbp.training.retention import BEST, superseded
from flowbp.training.state import RunState
from flowbp.training.training_state import write_training_state


@attrs.frozen
class Checkpoints:
    """Where a run saves, how often, and how much of it stays.

    Every checkpoint holds the weights that one would use, the averaged ones if the run averages,
    and in its folder `training` all that is needed to go on from it.

    Args:
        folder: the parent of `step-000100`, `best-000075`, `final`, `interrupted-000123`,
            `stopped-000123`, `last-good-000123` and `failed-000123`.
        every: optimizer steps from one checkpoint to the next; None writes only the last one.
        keep: how many of the newest stay, besides `final`; None keeps all. What was saved after
            something failed is never removed.
        best: a figure of `BEST`; the checkpoint in which it was best stays too. It is averaged
            over the `every` steps before the checkpoint. None keeps none for being best.
        identity: of the run, such as a digest of its configuration; a checkpoint with another one
            is not resumed.

    Raises:
        ValueError: `every` or `keep` is below 1, `best` is no such figure, or an option would be
            ignored.

    Example:
        >>> checkpoints = Checkpoints(Path("runs/a/checkpoints"), every=4)
        >>> [checkpoints.name(step, 10) for step in (3, 4, 10)]
        [None, 'step-000004', 'final']
    """

    folder: Path = attrs.field(converter=Path)
    every: int | None = attrs.field(
        default=None, validator=attrs.validators.optional(integer(1)), kw_only=True
    )
    keep: int | None = attrs.field(
        default=None, validator=attrs.validators.optional(integer(1)), kw_only=True
    )
    best: str | None = attrs.field(default=None, kw_only=True)
    identity: str = attrs.field(default="", kw_only=True)

    @best.validator
    def _check_best(self, _: attrs.Attribute[Any], value: str | None) -> None:
        check_retention(self.every, self.keep, value)

    def name(self, step: int, total: int, *, best: bool = False) -> str | None:
        """The name of the checkpoint after `step` of `total` steps, None if there is none.

        Args:
            step: that is done.
            total: optimizer steps of the run.
            best: whether its evaluation on held-out prompts is the best so far.

        Returns:
            The name.
        """
        if step == total:
            return "final"
        if best:
            return f"best-{step:06}"
        return f"step-{step:06}" if self.every and step % self.every == 0 else None

    def refuse_taken(self, total: int) -> None:
        """Find out before training whether a name that the run will need is taken.

        Args:
            total: optimizer steps of the run.

        Raises:
            CheckpointError: there is a file or a folder with something in it of that name.
        """
        names = (self.name(step, total) for step in range(1, total + 1))
        planned = [self.folder / name for name in names if name is not None]
        for place in (*planned, *sorted(self.folder.glob("best-*"))):
            if place.is_dir() and not any(place.iterdir()):
                continue
            if place.exists():
                raise CheckpointError(
                    errno.EEXIST,
                    f"`folder` must have no `{place.name}` from before, got {self.folder}, where "
                    "there is one; move it away or name another folder",
                )

    def newest(self) -> Saved | None:
        """The checkpoint to go on from, None without any.

        Returns:
            What `newest_checkpoint` finds.

        Raises:
            CheckpointError: the newest is damaged or of another run.
        """
        return newest_checkpoint(self.folder, self.identity)

    def before(self, step: int) -> Saved | None:
        """The newest checkpoint of an earlier step, None without any.

        Args:
            step: whose own checkpoint does not count.

        Returns:
            It, with all its files.
        """
        found = saved_checkpoints(self.folder, self.identity)
        return max(
            (saved for saved in found if saved.problem is None and saved.step < step),
            key=lambda saved: saved.step,
            default=None,
        )

    def of_step(self, step: int) -> str:
        """The name of the checkpoint after a step that was the best on held-out prompts.

        Args:
            step: after which it was saved.

        Returns:
            `best-` and the step, or what an interrupt at that step left in its place.
        """
        found = saved_checkpoints(self.folder, self.identity)
        names = {s.place.name for s in found if s.problem is None and s.step == step}
        regular = f"best-{step:06}"
        return regular if regular in names or not names else min(names)

    def recover(self) -> None:
        """Put right what a process that died while saving left; see `recover`."""
        if self.folder.is_dir():
            recover(self.folder)

    def save(self, run: RunState, source: Savable, name: str) -> Path:
        """Save so that a run can go on from it, then remove what need not stay.

        Args:
            run: its state. In the middle of an update only the model is saved.
            source: the backbone.
            name: of the checkpoint.

        Returns:
            The checkpoint's folder.

        Raises:
            CheckpointError: as `save_checkpoint`.
        """
        identity = None if run.updating else self.identity
        content = _Content(run, source, state=identity is not None)
        place = save_checkpoint(content, self.folder / name, identity=identity, step=run.done)
        if identity is not None:
            self.prune(run)
        return place

    def prune(self, run: RunState) -> None:
        """Remove the checkpoints that need not stay; a kill may have come before it was done.

        Args:
            run: its state after a finished step.

        Warns:
            UserWarning: it failed. All that is saved stays, and the next save tries again.
        """
        try:
            self._prune(run)
        # Whatever it is, what was saved before it is saved.
        except Exception as error:
            warnings.warn(
                f"checkpoints that need not stay could not be removed from {self.folder} "
                f"({type(error).__name__}: {error}); all that is saved stays, and the next save "
                "tries again",
                stacklevel=2,
            )

    def _prune(self, run: RunState) -> None:
        if self.keep is None and run.best is None:
            return
        sound = [s for s in saved_checkpoints(self.folder, self.identity) if s.problem is None]
        for old in superseded(
            sound, run.rows, self.keep, best=self.best, window=self.every, held_out=run.best
        ):
            remove_checkpoint(old.place)

    def save_model(self, run: RunState, source: Savable, name: str, *, averaged: bool) -> Path:
        """Save the model alone, for someone to look at; no run goes on from it.

        Args:
            run: its state.
            source: the backbone.
            name: of the folder.
            averaged: under the averaged weights, else under the present ones.

        Returns:
            The folder.

        Raises:
            CheckpointError: as `save_checkpoint`.
        """
        content = _Content(run, source, state=False) if averaged and run.average else source
        return save_checkpoint(content, self.folder / name, step=run.done)


def check_retention(every: int | None, keep: int | None, best: str | None) -> None:
    """Refuse a combination in which something would be ignored.

    Args:
        every: as in `Checkpoints`.
        keep: as in `Checkpoints`.
        best: as in `Checkpoints`.

    Raises:
        ValueError: `best` is no figure of `BEST`, or `keep` or `best` would have no effect.

    Example:
        >>> check_retention(20, 3, "reward")
    """
    if best is not None and best not in BEST:
        raise ValueError(f"`best` must be {' or '.join(BEST)} or none, got {best!r}")
    if keep is not None and every is None:
        raise ValueError(
            f"`keep` is {keep} while `every` is none, so that only the last step is saved; set "
            "`every` or leave `keep` out"
        )
    if best is not None and keep is None:
        raise ValueError(
            f"`best` is {best!r} while `keep` is none, so that all checkpoints stay; set `keep` "
            "or leave `best` out"
        )


@attrs.frozen(eq=False)
class _Content:
    """What a checkpoint holds: the model under the averaged weights, and perhaps the state."""

    run: RunState
    source: Savable
    state: bool

    def save(self, folder: Path) -> None:
        if self.run.average is None:
            self.source.save(folder)
        else:
            with self.run.average.swapped():
                self.source.save(folder)
        if self.state:
            write_training_state(self.run, folder)
