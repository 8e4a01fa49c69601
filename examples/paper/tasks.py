"""One run or one evaluation: its command, its folder, and whether it is done."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from examples.paper.published import BASE
from flowbp.cli.evaluate.results import SCORES
from flowbp.cli.evaluate.settings import EvaluateSettings
from flowbp.cli.run.folder import CONFIGURATION, read_finished
from flowbp.config import DamagedError, plain, read_file
from flowbp.evaluation import Scores
from flowbp.evaluation.scores_files import scores_from_json
from flowbp.settings import Change, Settings, changes, resolved_values
from flowbp.settings.folder import FINISHED
from flowbp.training.checkpoint import FINAL, TRAINING, remove_checkpoint

_OF_SCORES = ("backbone", "prompts", "sampling", "metrics")
_PLACES = ("source", "path", "tokenizer")
"""Keys that may change because something was moved."""


@attrs.frozen(eq=False)
class Training:
    """A run of a method on a model, in as many processes as there are GPUs."""

    model: str
    method: str
    settings: Settings
    files: tuple[str, ...]
    gpus: int

    phase = 1

    @property
    def name(self) -> str:
        """In messages."""
        return f"{self.model}/{self.method}"

    @property
    def folder(self) -> Path:
        """The run's."""
        return self.settings.run.folder

    @property
    def final(self) -> Path:
        """The trained model."""
        return self.folder / "checkpoints" / FINAL

    @property
    def done(self) -> bool:
        """Whether nothing is left to do."""
        try:
            finished = read_finished(self.folder)
        except DamagedError:
            # The command says what to do about it.
            return False
        if finished is None or finished.steps != self.settings.training.steps:
            return False
        changed = _changed(self.folder, resolved_values(self.settings))
        moved = (each.key.rpartition(".")[2] in _PLACES for each in changed if not each.allowed)
        return self.final.is_dir() and all(moved)

    def command(self) -> list[str]:
        """What starts it, or continues it."""
        launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(self.gpus)]
        several = [*launcher, "-m"] if self.gpus > 1 else []
        typed = [*self.files, f"run.folder={self.folder}", *_resumed(self.folder)]
        return [sys.executable, "-m", *several, "flowbp.run", *typed]

    def release(self) -> None:
        """Remove what only --resume needs, which is most of what a run leaves."""
        for place in sorted((self.folder / "checkpoints").glob("step-*")):
            remove_checkpoint(place)
        if (self.final / TRAINING).is_dir():
            shutil.rmtree(self.final / TRAINING)


@attrs.frozen(eq=False)
class Row:
    """An evaluation of a model before or after a run: a row of a table, on one GPU."""

    model: str
    table: str
    settings: EvaluateSettings
    file: Path
    training: Training | None

    @property
    def phase(self) -> int:
        """The base first, so that a metric that fails does so before the hours of training."""
        return 2 if self.training else 0

    @property
    def label(self) -> str:
        """Of the row: its method, or that of the base."""
        return self.training.method if self.training else BASE

    @property
    def name(self) -> str:
        """In messages."""
        return f"{self.model}/{self.table}/{self.label}"

    @property
    def folder(self) -> Path:
        """The evaluation's."""
        return self.settings.evaluation.folder / self.label

    @property
    def done(self) -> bool:
        """Whether every picture has a value of every metric, and is of the model that is there."""
        scores = self.scores()
        if scores is None or scores.failures:
            return False
        found = {column.partition(".")[0] for column in scores.columns}
        count = len(self.settings.prompts.prompts()) * len(self.settings.evaluation.seeds)
        whole = set(self.settings.metrics) <= found and len(scores.rows) == count
        changed = {each.key.partition(".")[0] for each in self._changes()}
        return whole and not changed & set(_OF_SCORES) and not self._older_than_the_run()

    def _changes(self) -> Sequence[Change]:
        return _changed(self.folder, resolved_values(self.settings))

    def _older_than_the_run(self) -> bool:
        finished = self.training and self.training.folder / FINISHED
        if not finished or not finished.exists():
            return False
        return (self.folder / SCORES).stat().st_mtime < finished.stat().st_mtime

    def scores(self) -> Scores | None:
        """What has been measured so far."""
        path = self.folder / SCORES
        if not path.is_file():
            return None
        try:
            return scores_from_json(path.read_text(encoding="utf-8"))
        except ValueError:
            # --resume writes it anew.
            return None

    def command(self) -> list[str]:
        """What starts it, or continues it."""
        model = {"checkpoint": str(self.training.final)} if self.training else {}
        typed = [
            str(self.file),
            f"evaluation.folder={self.folder}",
            "evaluation.on_failure=report",
            f"models={json.dumps({self.label: model})}",
            *_resumed(self.folder),
        ]
        return [sys.executable, "-m", "flowbp.evaluate", *typed]


Task = Training | Row


def _changed(folder: Path, settings: Mapping[str, Any]) -> Sequence[Change]:
    """What is not as it was when a task was begun; its command refuses it, or measures again."""
    return changes(plain(read_file(folder / CONFIGURATION)), settings)


def _resumed(folder: Path) -> list[str]:
    return ["--resume"] if (folder / CONFIGURATION).exists() else []
