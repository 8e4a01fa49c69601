"""Which checkpoints a run writes, and under which weights."""

from __future__ import annotations

import errno
from pathlib import Path

import attrs

from flowbp.core._validators import integer
from flowbp.training.checkpoint import CheckpointError, Savable, save_checkpoint
from flowbp.training.ema import MovingAverage


@attrs.frozen
class Checkpoints:
    """Where a run saves, and how often.

    Every checkpoint holds the weights that one would use: the averaged ones if the run averages.

    Args:
        folder: the parent of `step-000100`, `final`, `interrupted-000123`,
            `stopped-000123`, `last-good-000123` and `failed-000123`.
        every: optimizer steps from one checkpoint to the next; None writes only the last one.

    Raises:
        ValueError: `every` is below 1.

    Example:
        >>> checkpoints = Checkpoints(Path("runs/a/checkpoints"), every=4)
        >>> [checkpoints.name(step, 10) for step in (3, 4, 10)]
        [None, 'step-000004', 'final']
    """

    folder: Path = attrs.field(converter=Path)
    every: int | None = attrs.field(
        default=None, validator=attrs.validators.optional(integer(1)), kw_only=True
    )

    def name(self, step: int, total: int) -> str | None:
        """The name of the checkpoint after `step` of `total` steps, None if there is none."""
        if step == total:
            return "final"
        return f"step-{step:06}" if self.every and step % self.every == 0 else None

    def refuse_taken(self, total: int) -> None:
        """Find out before training whether a name that the run will need is taken.

        Args:
            total: optimizer steps of the run.

        Raises:
            CheckpointError: there is a file or a folder with something in it of that name.
        """
        names = (self.name(step, total) for step in range(1, total + 1))
        for place in (self.folder / name for name in names if name is not None):
            if place.is_dir() and not any(place.iterdir()):
                continue
            if place.exists():
                raise CheckpointError(
                    errno.EEXIST,
                    f"`folder` must have no `{place.name}` from before, got {self.folder}, where "
                    "there is one; move it away or name another folder",
                )

    def save(self, source: Savable, name: str, average: MovingAverage | None) -> Path:
        """Save under the averaged weights, or the present ones if `average` is None.

        Args:
            source: the backbone.
            name: of the checkpoint.
            average: the run's average of the source's parameters.

        Returns:
            The checkpoint's folder.

        Raises:
            CheckpointError: as `save_checkpoint`.
        """
        if average is None:
            return save_checkpoint(source, self.folder / name)
        with average.swapped():
            return save_checkpoint(source, self.folder / name)
