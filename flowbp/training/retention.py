"""Which checkpoints a run writes, and which of them stay."""

from __future__ import annotations

import errno
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import attrs

from flowbp.adapters.capabilities import frozen_parts_of
from flowbp.adapters.pipeline_files import LEFT_OUT
from flowbp.limits import STEPS
from flowbp.training.background import Background
from flowbp.training.checkpoint import (
    FINAL,
    Card,
    CheckpointError,
    SavedCheckpoint,
    newest_checkpoint,
    numbered,
    read_manifest,
    recover,
    remove_checkpoint,
    save_checkpoint,
    saved_checkpoints,
)
from flowbp.training.checkpoint_copy import copied, write_model
from flowbp.training.frozen_files import FrozenFiles
from flowbp.training.metrics import Metrics
from flowbp.training.run_state import RunState
from flowbp.training.training_state import write_training_state
from flowbp.validators import integer

BEST: Mapping[str, Callable[..., Any]] = {"reward": max, "loss": min}
"""The metrics that a checkpoint can be best in, and which end of them is."""


@attrs.frozen(kw_only=True)
class SavePolicy:
    """How often the model is saved, and how many of the checkpoints stay; the last step always is.

    A run can go on (`--resume`) from any of them.

    Args:
        every: optimizer steps from one checkpoint to the next; null writes only the last.
        keep: how many of the newest stay, besides `final`; null keeps all.
        best: `reward` or `loss`; the checkpoint before which its mean over `every` steps was best
            stays too. By default `reward` with `keep`: the model from before a fall is not lost.
    """

    every: int | None = attrs.field(
        default=None, validator=attrs.validators.optional(integer(1, STEPS))
    )
    keep: int | None = attrs.field(
        default=None, validator=attrs.validators.optional(integer(1, STEPS))
    )
    best: str | None = attrs.field()

    @best.default
    def _best(self) -> str | None:
        return None if self.keep is None else "reward"

    def __attrs_post_init__(self) -> None:
        """Refuse a combination in which something would be ignored."""
        if self.best is not None and self.best not in BEST:
            raise ValueError(f"`best` must be {' or '.join(BEST)} or none, got {self.best!r}")
        if self.keep is not None and self.every is None:
            raise ValueError(
                f"`keep` is {self.keep} while `every` is none, so that only the last step is "
                "saved; set `every` or leave `keep` out"
            )
        if self.best is not None and self.keep is None:
            raise ValueError(
                f"`best` is {self.best!r} while `keep` is none, so that all checkpoints stay; set "
                "`keep` or leave `best` out"
            )

    def due(self, step: int) -> bool:
        """Whether the model is saved after a step, be it the last or not."""
        return self.every is not None and step % self.every == 0


@attrs.frozen
class Checkpoints:
    """Where and when a run saves, and how much of it stays.

    Every checkpoint holds the weights that one would use, the averaged ones if the run averages,
    and in its folder `training` all that is needed to go on from it. `identity` is of the run, such
    as a digest of its configuration; a checkpoint with another one is not resumed. What was saved
    after something failed is never removed. A `card` writes the model card of each model, and
    `frozen` are the files that it has already written of what all of them have alike.
    """

    folder: Path = attrs.field(converter=Path)
    policy: SavePolicy = attrs.field(factory=SavePolicy)
    identity: str = attrs.field(default="", kw_only=True)
    card: Card | None = attrs.field(default=None, kw_only=True)
    frozen: FrozenFiles = attrs.field(factory=FrozenFiles, kw_only=True, eq=False, repr=False)
    _background: Background = attrs.field(factory=Background, init=False, eq=False, repr=False)

    def name(self, step: int, total: int, *, best: bool = False) -> str | None:
        """The name of the checkpoint after `step` of `total` steps, None if there is none."""
        if step == total:
            return FINAL
        if best:
            return numbered("best", step)
        return numbered("step", step) if self.policy.due(step) else None

    def refuse_taken(self, total: int) -> None:
        """Refuse before training a name that the run will need and that is taken."""
        names = (self.name(step, total) for step in range(1, total + 1))
        needed = [self.folder / name for name in names if name is not None]
        for place in (*needed, *sorted(self.folder.glob("best-*"))):
            if place.exists() and not (place.is_dir() and not any(place.iterdir())):
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
        self.settle()
        found = saved_checkpoints(self.folder, self.identity)
        earlier = [saved for saved in found if saved.problem is None and saved.step < step]
        return max(earlier, key=lambda saved: saved.step, default=None)

    def of_step(self, step: int) -> str:
        """`best-` and the step, or what an interrupt at that step left in its place."""
        found = saved_checkpoints(self.folder, self.identity)
        names = [s.place.name for s in found if s.problem is None and s.step == step]
        regular = numbered("best", step)
        return regular if regular in names or not names else names[0]

    def recover(self) -> None:
        """Put right what a process that died while saving left."""
        if self.folder.is_dir():
            recover(self.folder)

    def save(self, run: RunState, name: str, *, files: bool = True, beside: bool = False) -> Path:
        """Save so that a run can go on from it, then remove what need not stay.

        In the middle of an update the model alone is saved; without `files` the model is not.
        A checkpoint that may be written `beside` training is copied now, where it can be, and is
        there only after `wait`.
        """
        self.wait()
        write = copied(run, self.frozen) if beside else None
        finish = partial(
            self._written,
            write or partial(self._write, run, files=files),
            self.folder / name,
            parts=frozen_parts_of(run.step.backbone) if files else (),
            identity=None if run.updating else self.identity,
            step=run.done,
            card=self._card_after(run.done) if files else None,
        )
        if write is not None:
            # What is best or due is decided by where the run is now.
            self._background.start(partial(self._then_prune, finish, tuple(run.rows), run.best))
        elif run.updating:
            finish()
        else:
            self._then_prune(finish, run.rows, run.best)
        return Path(os.path.abspath(self.folder / name))

    def wait(self) -> None:
        """Wait for what is written beside training, and raise what it failed with."""
        self._background.wait()

    def check(self) -> None:
        """Raise what something written beside training has failed with, without waiting."""
        self._background.check()

    def settle(self) -> bool:
        """Wait for what is written beside training; whether the last of it was written."""
        with suppress(Exception):
            self._background.wait()
        return not self._background.failed

    def save_model(self, run: RunState, name: str, *, averaged: bool) -> Path:
        """Save the model alone, for someone to look at; no run goes on from it."""
        self.settle()
        parts = frozen_parts_of(run.step.backbone)
        write = partial(write_model, run, frozen=self.frozen, averaged=averaged)
        card = self._card_after(run.done)
        return self._written(write, self.folder / name, parts=parts, step=run.done, card=card)

    def _write(self, run: RunState, folder: Path, *, files: bool) -> Mapping[str, str]:
        known = write_model(run, folder, frozen=self.frozen, averaged=True) if files else {}
        if not run.updating:
            write_training_state(run, folder)
        return known

    def _written(
        self,
        write: Callable[[Path], Mapping[str, str]],
        folder: Path,
        *,
        parts: Sequence[str],
        identity: str | None = None,
        step: int,
        card: Callable[[Path], str] | None,
    ) -> Path:
        place = save_checkpoint(write, folder, identity=identity, step=step, card=card)
        if not parts:
            return place
        digests = {name: file.sha256 for name, file in read_manifest(place).files.items()}
        # In a checkpoint they would be gone with it once it need not stay.
        if self.frozen.are_there() and not self.frozen.lie_in(self.folder):
            self.frozen.learn(digests)
        elif not any((place / part / LEFT_OUT).exists() for part in parts):
            self.frozen.remember(place, parts, digests)
        return place

    def _then_prune(
        self, finish: Callable[[], Path], rows: Sequence[Metrics], best: int | None
    ) -> None:
        finish()
        self.prune(rows, best)

    def _card_after(self, step: int) -> Callable[[Path], str] | None:
        card = self.card
        return None if card is None else lambda folder: card(folder, step)

    def prune(self, rows: Sequence[Metrics], best: int | None) -> None:
        """Remove the checkpoints that need not stay; a kill may have come before it was done.

        Of a run with these metrics, whose evaluation was `best` after that step.
        """
        if self.policy.keep is None and best is None:
            return
        try:
            for old in self._superseded(rows, best):
                remove_checkpoint(old.place)
        # Whatever it is, what was saved before it is saved.
        except Exception as error:
            warnings.warn(
                f"checkpoints that need not stay could not be removed from {self.folder} "
                f"({type(error).__name__}: {error}); all that is saved stays, and the next save "
                "tries again",
                stacklevel=2,
            )

    def _superseded(self, rows: Sequence[Metrics], best: int | None) -> list[SavedCheckpoint]:
        """Those that can go: not `final`, the newest or the best."""
        # By their manifests: that what goes is of this run is all that has to be sure.
        found = saved_checkpoints(self.folder, self.identity, read=())
        sound = [saved for saved in found if saved.problem is None]
        candidates = [saved for saved in sound if saved.place.name != FINAL]
        # What was saved only because its evaluation once was the best can go once it no longer is.
        regular = [c for c in candidates if best is None or not self._once_best(c)]
        staying = regular if self.policy.keep is None else regular[-self.policy.keep :]
        staying = [*staying, *sound[-1:], *(c for c in candidates if c.step == best)]
        # Before the first step there are no metrics to be best in.
        if self.policy.best is not None and candidates and rows:
            mean = partial(self._mean, rows, self.policy.best)
            # Of equals the earliest.
            staying.append(BEST[self.policy.best](candidates, key=mean))
        return [saved for saved in candidates if saved not in staying]

    def _once_best(self, saved: SavedCheckpoint) -> bool:
        return saved.place.name.startswith("best-") and not self.policy.due(int(saved.step))

    def _mean(self, rows: Sequence[Metrics], metric: str, saved: SavedCheckpoint) -> float:
        """Over the steps before the checkpoint, as one batch alone says little."""
        done = int(saved.step)
        start = 0 if self.policy.every is None else max(0, done - self.policy.every)
        # A checkpoint of step 0 has no metrics; the run's first is the nearest there is.
        values: list[float] = [getattr(row, metric) for row in rows[start:done] or rows[:1]]
        return sum(values) / len(values)
