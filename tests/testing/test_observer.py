"""The observer check passes on sound observers, and finds each fault of a broken one."""

from __future__ import annotations

import csv
import functools
from pathlib import Path

import pytest

from flowbp.testing import check_observer
from flowbp.training import EvaluationLines, History, JsonLines, Observer, PortionLines, TensorBoard


class Table(Observer):
    """Steps and rewards, written anew with each."""

    def __init__(self, *, folder: Path, file: str = "rewards.csv") -> None:
        self.path, self.rows = folder / file, []

    def begin(self, rows):
        self.rows = [(each.step, each.reward) for each in rows]

    def row(self, metrics):
        self.rows.append((metrics.step, metrics.reward))
        with self.path.open("w", newline="") as file:
            csv.writer(file).writerows(self.rows)


class Plain:
    """One that inherits from nothing."""

    def row(self, metrics):
        self.last = metrics

    def pictures(self, step, images, prompts):
        self.shape = images.shape

    def close(self):
        pass


def lines_of(kind, name):
    def build(folder):
        return kind(folder / name)

    return build


@pytest.mark.parametrize(
    "build",
    [
        Table,
        functools.partial(Table, file="other.csv"),
        Plain,
        History,
        lines_of(JsonLines, "metrics.jsonl"),
        lines_of(EvaluationLines, "evaluations.jsonl"),
        lines_of(PortionLines, "portions.jsonl"),
        lines_of(TensorBoard, "tensorboard"),
    ],
)
def test_a_sound_observer_passes(build):
    check_observer(build)


class Misspelled(Observer):
    def rows(self, metrics):
        self.last = metrics


class WithoutClose:
    def row(self, metrics):
        pass

    def pictures(self, step, images, prompts):
        pass


class OtherArguments(Observer):
    def pictures(self, images):
        pass


class OtherFurtherArguments(Observer):
    def begin(self):
        pass


class Raising(Observer):
    def row(self, metrics):
        # Undefined of a surrogate with one segment.
        self.sum = sum(metrics.residuals)


class RaisingAtEnd(Observer):
    def row(self, metrics):
        self.last = metrics

    def close(self):
        self.last.step += 1


class InPlace(Observer):
    def pictures(self, step, images, prompts):
        images.mul_(255)


class InWorkingFolder(Observer):
    def __init__(self, *, folder):
        self.name = "rewards.csv"

    def row(self, metrics):
        Path(self.name).write_text(f"{metrics.reward}\n")


class Appending(Observer):
    """Has the steps twice that a run does again."""

    def __init__(self, *, folder):
        self.path = folder / "rewards.csv"

    def row(self, metrics):
        with self.path.open("a") as file:
            file.write(f"{metrics.step},{metrics.reward}\n")


class Forgetting(Table):
    """Begins its file anew."""

    def begin(self, rows):
        self.rows = []


class Fresh(Observer):
    """Cannot go on in a folder of its own."""

    def __init__(self, *, folder):
        (folder / "own").mkdir()

    def row(self, metrics):
        pass


class OnlyAtEnd(Observer):
    """Keeps everything until it is closed, and takes nothing over."""

    def __init__(self, *, folder):
        self.path, self.steps = folder / "steps.txt", []

    def row(self, metrics):
        self.steps.append(metrics.step)

    def close(self):
        self.path.write_text(f"{self.steps}")


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (Misspelled, "a method of its own for one of the events row, pictures, close, begin"),
        (WithoutClose, r"this has no `close\(\)`"),
        (OtherArguments, r"has a `pictures` that does not take \(step, images, prompts\)"),
        (OtherFurtherArguments, r"has a `begin` that does not take \(rows\)"),
        (Raising, "Raising raised TypeError: .*NoneType.*; it was the event `row`"),
        (RaisingAtEnd, "no attribute 'last'; it was the event `close`"),
        (InPlace, "must leave the pictures as they are"),
        (InWorkingFolder, "write into `folder`, got 'rewards.csv' in the working folder"),
        (Appending, "killed and went on, and 'rewards.csv' differs"),
        (Forgetting, "killed and went on, and 'rewards.csv' differs"),
        (OnlyAtEnd, "killed and went on, and 'steps.txt' differs"),
        (Fresh, "could not be built in a folder where a run was killed: FileExistsError"),
    ],
)
def test_a_fault_is_found_and_named(build, message):
    with pytest.raises(AssertionError, match=message):
        check_observer(build)
