"""One run or one evaluation: its command, its folder, and whether it is done."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Collection, Mapping, Sequence
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

_OF_PICTURES = ("backbone", "prompts", "sampling", "evaluation.seeds")
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
        return self.final.is_dir() and not self.changes()

    def changes(self) -> Sequence[Change]:
        """What it was begun under otherwise, and may not go on without."""
        found = _changed(self.folder, resolved_values(self.settings))
        moved = {each for each in found if each.key.rpartition(".")[2] in _PLACES}
        return [each for each in found if not each.allowed and each not in moved]

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
        if scores is None or scores.failures or self.outdated():
            return False
        found = {_metric(column) for column in scores.columns}
        count = len(self.settings.prompts.prompts()) * len(self.settings.evaluation.seeds)
        return set(self.settings.metrics) <= found and len(scores.rows) == count

    def scores(self) -> Scores | None:
        """What has been measured so far of the present settings and of the model that is there."""
        written = self._written()
        if written is None or self._outdated_pictures():
            return None
        changed = {each.key.split(".")[1] for each in self._changes("metrics")}
        return _without_metrics(written, changed)

    def outdated(self) -> Sequence[str]:
        """Why what has been measured is not among the scores, or not all of it."""
        written = self._written()
        if written is None:
            return []
        there = {_metric(column) for column in written.columns}
        metrics = [c for c in self._changes("metrics") if c.key.split(".")[1] in there]
        return [*self._outdated_pictures(), *self._other(metrics)]

    def _outdated_pictures(self) -> Sequence[str]:
        found = self._other(self._changes(*_OF_PICTURES))
        run = self.training
        if run and not run.done:
            changed = [f"`{each.key}` of its run was {each.old}" for each in run.changes()]
            found += changed or ["before its run was finished"]
        elif run and self._older_than(run.folder / FINISHED):
            found += ["before its run was finished"]
        # Which are written first.
        if self._older_than(self.folder / CONFIGURATION):
            found += ["before it was begun again"]
        return found

    def _other(self, changed: Sequence[Change]) -> list[str]:
        return [f"`{self.table}.{each.key}` was {each.old}" for each in changed]

    def _changes(self, *sections: str) -> Sequence[Change]:
        found = _changed(self.folder, resolved_values(self.settings))
        return [
            each for each in found if f"{each.key}.".startswith(tuple(f"{s}." for s in sections))
        ]

    def _older_than(self, file: Path) -> bool:
        scores = self.folder / SCORES
        return file.exists() and scores.stat().st_mtime < file.stat().st_mtime

    def _written(self) -> Scores | None:
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


def _metric(column: str) -> str:
    return column.partition(".")[0]


def _without_metrics(scores: Scores, names: Collection[str]) -> Scores | None:
    """The others' columns; None if there are no others."""
    rows = [
        attrs.evolve(r, values={c: v for c, v in r.values.items() if _metric(c) not in names})
        for r in scores.rows
    ]
    failures = [each for each in scores.failures if each.metric not in names]
    totals = {c: parts for c, parts in scores.totals.items() if _metric(c) not in names}
    scales = {c: scale for c, scale in scores.scales.items() if _metric(c) not in names}
    kept = Scores(rows, failures, totals, scales)
    return kept if kept.columns or failures else None


def _changed(folder: Path, settings: Mapping[str, Any]) -> Sequence[Change]:
    """What is not as it was when a task was begun; its command refuses it, or measures again."""
    if not (folder / CONFIGURATION).exists():
        return ()
    return changes(plain(read_file(folder / CONFIGURATION)), settings)


def _resumed(folder: Path) -> list[str]:
    return ["--resume"] if (folder / CONFIGURATION).exists() else []
