"""Metrics and sample pictures for TensorBoard."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from flowbp.extras import require
from flowbp.training.metrics import HeldOutMetrics, Metrics, metrics_row
from flowbp.training.observers import Observer

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class TensorBoard(Observer):
    """Event files that `tensorboard --logdir <folder>` shows; a full disk costs a warning only."""

    def __init__(self, folder: Path) -> None:
        require("tensorboard", extra="run")
        self._folder = Path(folder)
        self._writer: SummaryWriter | None = None
        self._purge: int | None = None
        self._evaluated = -1
        self._refused = False

    def begin(self, rows: Sequence[Metrics]) -> None:
        """Hide what an earlier process wrote from the last of these rows on, and write that row."""
        if any(self._folder.glob("events.*")):
            self._purge = len(rows)
            self._evaluated = len(rows) - 1
        if rows:
            self.row(rows[-1])

    def row(self, metrics: Metrics) -> None:
        """One scalar for each metric that is defined, under `train/`."""
        row = metrics_row(metrics)
        del row["step"]
        self._add("train", row, metrics.step)

    def evaluations(self, rows: Sequence[HeldOutMetrics]) -> None:
        """One scalar for each metric of evaluations that are not there yet, under `evaluation/`."""
        for row in rows:
            if row.step > self._evaluated:
                self._evaluated = row.step
                self._add("evaluation", row.means, row.step)

    def pictures(self, step: int, images: Tensor, prompts: Sequence[str]) -> None:
        """All pictures as one grid, and their prompts as text."""
        from flowbp.evaluation.pictures import grid

        with self._writing() as writer:
            writer.add_image("samples", grid(images).clamp(0, 1), step)
            listed = "\n".join(f"{number}. {prompt}" for number, prompt in enumerate(prompts, 1))
            writer.add_text("prompts", listed, step)

    def close(self) -> None:
        """Write out what is pending."""
        if self._writer is not None:
            with self._writing() as writer:
                writer.close()

    def _add(self, group: str, values: Mapping[str, float | None], step: int) -> None:
        with self._writing() as writer:
            for name, value in values.items():
                if value is not None:
                    writer.add_scalar(f"{group}/{name}", value, step)
            # Otherwise up to two minutes of metrics wait in memory, and a kill loses them.
            writer.flush()

    @contextmanager
    def _writing(self) -> Iterator[Any]:
        """The writer, while the disk takes events; they are a convenience, and end no run."""
        try:
            yield _Nowhere() if self._refused else self._open()
        except OSError as error:
            self._refused = True
            warnings.warn(
                f"no more events for TensorBoard are written, as {self._folder} does not take them "
                f"({error}); the run goes on, and metrics.jsonl has the metrics",
                stacklevel=2,
            )

    def _open(self) -> SummaryWriter:
        if self._writer is None:
            # The import takes over a second, which only a run that logs should pay.
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self._folder), purge_step=self._purge)
        return self._writer


class _Nowhere:
    """A writer after the disk refused."""

    def __getattr__(self, _: str) -> Any:
        return lambda *values: None
