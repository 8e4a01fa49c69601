"""Which checkpoints a run writes, and which of them stay."""

from __future__ import annotations

import errno
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import attrs

from flowbp.training.checkpoint import (
    CheckpointError,
    Savable,
    SavedCheckpoint,
    newest_checkpoint,
    recover,
    remove_checkpoint,
    save_checkpoint,
    saved_checkpoints,
)
from flowbp.training.metrics import Metrics
from flowbp.training.run_state import RunState
from flowbp.training.training_state import write_training_state
from flowbp.validators import integer

BEST: Mapping[str, Callable[..., Any]] = {"reward": max, "loss": min}
"""The metrics that a checkpoint can be best in, and which end of them is."""


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
        best: a metric of `BEST`; the checkpoint in which it was best stays too. It is averaged
            over the `every` steps before the checkpoint. None keeps none for being best.
        identity: of the run, such as a digest of its configuration; a checkpoint with another one
            is not resumed.

    Raises:
        ValueError: `every` or `keep` is below 1, `best` is no such metric, or an option would be
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
        """The name of the checkpoint after `step` of `total` steps, None if there is none."""
        if step == total:
            return "final"
        if best:
            return f"best-{step:06}"
        return f"step-{step:06}" if self.every and step % self.every == 0 else None

    def refuse_taken(self, total: int) -> None:
        """Refuse before training a name that the run will need and that is taken."""
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

    def newest(self) -> SavedCheckpoint | None:
        """The checkpoint to go on from, None without any."""
        return newest_checkpoint(self.folder, self.identity)

    def before(self, step: int) -> SavedCheckpoint | None:
        """The newest checkpoint of an earlier step, None without any."""
        found = saved_checkpoints(self.folder, self.identity)
        return max(
            (saved for saved in found if saved.problem is None and saved.step < step),
            key=lambda saved: saved.step,
            default=None,
        )

    def of_step(self, step: int) -> str:
        """`best-` and the step, or what an interrupt at that step left in its place."""
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

        In the middle of an update only the model is saved.
        """
        identity = None if run.updating else self.identity
        content = _Content(run, source, state=identity is not None)
        place = save_checkpoint(content, self.folder / name, identity=identity, step=run.done)
        if identity is not None:
            self.prune(run)
        return place

    def prune(self, run: RunState) -> None:
        """Remove the checkpoints that need not stay; a kill may have come before it was done."""
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
        if self.keep is not None or run.best is not None:
            for old in self._superseded(run):
                remove_checkpoint(old.place)

    def _superseded(self, run: RunState) -> list[SavedCheckpoint]:
        """Those that can go: not `final`, the newest or the best."""
        found = saved_checkpoints(self.folder, self.identity)
        sound = [saved for saved in found if saved.problem is None]
        candidates = [saved for saved in sound if saved.place.name != "final"]
        # What was saved only because its evaluation once was the best can go once it no longer is.
        regular = [c for c in candidates if run.best is None or not self._once_best(c)]
        staying = regular if self.keep is None else regular[-self.keep :]
        staying = [*staying, *sound[-1:], *(c for c in candidates if c.step == run.best)]
        # Before the first step there are no metrics to be best in.
        if self.best is not None and candidates and run.rows:
            mean = partial(self._mean, run.rows, self.best)
            # Of equals the earliest.
            staying.append(BEST[self.best](candidates, key=mean))
        return [saved for saved in candidates if saved not in staying]

    def _once_best(self, saved: SavedCheckpoint) -> bool:
        regular = self.every and saved.step % self.every == 0
        return saved.place.name.startswith("best-") and not regular

    def _mean(self, rows: Sequence[Metrics], metric: str, saved: SavedCheckpoint) -> float:
        """Over the steps before the checkpoint, as one batch alone says little."""
        done = int(saved.step)
        start = 0 if self.every is None else max(0, done - self.every)
        # A checkpoint of step 0 has no metrics; the run's first is the nearest there is.
        values: list[float] = [getattr(row, metric) for row in rows[start:done] or rows[:1]]
        return sum(values) / len(values)

    def save_model(self, run: RunState, source: Savable, name: str, *, averaged: bool) -> Path:
        """Save the model alone, for someone to look at; no run goes on from it."""
        content = _Content(run, source, state=False) if averaged and run.average else source
        return save_checkpoint(content, self.folder / name, step=run.done)


def check_retention(every: int | None, keep: int | None, best: str | None) -> None:
    """Refuse a combination in which something would be ignored."""
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
