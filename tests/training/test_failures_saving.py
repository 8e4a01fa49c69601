"""What a disk refuses is reported with its cure, and nothing is said to be saved that is not."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
from pathlib import Path

import attrs
import pytest
import torch
from safetensors.torch import save_file

from flowbp.files import SavingError, saving, write_atomically
from flowbp.training import (
    CheckpointError,
    Checkpoints,
    JsonLines,
    SampleGrids,
    SavePolicy,
    TensorBoard,
)
from flowbp.training.checkpoint import saved_checkpoints

from .fakes import FakeBackbone, Recorder, make_step, make_trainer, same, saved
from .test_observers import ROW

REFUSALS = {
    errno.ENOSPC: "make room",
    errno.EDQUOT: "quota",
    errno.EFBIG: "ulimit -f",
    errno.ENOENT: "put it back",
    errno.EROFS: "mount it for writing",
    errno.EACCES: "permission",
    errno.EIO: "another disk",
}


class Refusing(FakeBackbone):
    """Saves once, and is refused by the disk afterwards, as a library in Rust says it or as is."""

    def __init__(self, number: int, rust: bool) -> None:
        super().__init__()
        self.number, self.rust, self.saves = number, rust, 0

    def save(self, folder: Path) -> None:
        super().save(folder)
        self.saves += 1
        if self.saves > 1:
            text = os.strerror(self.number)
            if self.rust:
                raise RuntimeError(f"I/O error: {text} (os error {self.number})")
            raise OSError(self.number, text)


@pytest.mark.parametrize("rust", [False, True])
@pytest.mark.parametrize(("number", "cure"), REFUSALS.items())
def test_every_refusal_of_a_checkpoint_has_its_cure(tmp_path, number, cure, rust):
    backbone = Refusing(number, rust)
    trainer = make_trainer(
        make_step(backbone=backbone), checkpoints=Checkpoints(tmp_path, SavePolicy(every=1))
    )
    with pytest.raises(CheckpointError) as caught:
        trainer.run()
    told = str(caught.value)
    assert caught.value.errno == number
    assert "`step-000002` was not written" in told and cure in told and str(tmp_path) in told
    assert "could not be saved" in caught.value.__notes__[0]
    assert [path.name for path in tmp_path.iterdir()] == ["step-000001"]
    assert saved_checkpoints(tmp_path, "")[0].problem is None


@pytest.fixture
def small_files():
    """No file may be larger than 4 KiB, as under `ulimit -f`."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_limit_of_the_size_of_files(tmp_path, small_files):
    write_atomically(tmp_path / "a", "whole")
    with pytest.raises(SavingError, match="`a` was not written") as caught:
        write_atomically(tmp_path / "a", "x" * 5000)
    assert caught.value.errno == errno.EFBIG and "ulimit -f" in str(caught.value)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "whole"}


def test_a_limit_in_the_middle_of_a_checkpoint(tmp_path, small_files):
    class Rust(FakeBackbone):
        def save(self, folder: Path) -> None:
            save_file(self.state(), folder / "weights.safetensors")

    trainer = make_trainer(make_step(backbone=Rust()), steps=1, checkpoints=Checkpoints(tmp_path))
    with pytest.raises(CheckpointError, match="`final` was not written") as caught:
        trainer.run()
    assert caught.value.errno == errno.EFBIG
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_goes_while_it_is_written(tmp_path):
    class Losing(FakeBackbone):
        def save(self, folder: Path) -> None:
            super().save(folder)
            shutil.rmtree(tmp_path / "run")

    trainer = make_trainer(
        make_step(backbone=Losing()), steps=1, checkpoints=Checkpoints(tmp_path / "run/checkpoints")
    )
    with pytest.raises(CheckpointError, match="the folder is gone") as caught:
        trainer.run()
    assert "could not be saved" in caught.value.__notes__[0]


def test_a_checkpoint_that_is_gone_is_not_said_to_be_there(tmp_path):
    def lose(step: int) -> None:
        if step == 2:
            shutil.rmtree(tmp_path / "run" / "step-000002")
            raise RuntimeError("stop")

    backbone = FakeBackbone()
    trainer = make_trainer(
        make_step(backbone=backbone),
        checkpoints=Checkpoints(tmp_path / "run", SavePolicy(every=1)),
        observers=[Recorder(act=lose)],
    )
    with pytest.raises(RuntimeError, match="stop") as caught:
        trainer.run()
    place = tmp_path / "run" / "stopped-000002"
    assert caught.value.__notes__ == [
        f"the parameters after step 2 are saved in {place}, from which --resume goes on"
    ]
    assert same(saved(place), backbone.state())


def test_lines_and_pictures(tmp_path, small_files):
    lines = JsonLines(tmp_path / "metrics.jsonl")
    with pytest.raises(SavingError, match=r"`metrics.jsonl` was not written"):
        for step in range(1, 100):
            lines.row(attrs.evolve(ROW, step=step))
    lines.close()
    first = (tmp_path / "metrics.jsonl").read_text().splitlines()[0]
    assert json.loads(first)["step"] == 1
    with pytest.raises(SavingError, match=r"`000001.png` was not written"):
        SampleGrids(tmp_path).pictures(1, torch.rand(4, 3, 64, 64), ["a"] * 4)


def test_events_are_given_up_and_the_run_goes_on(tmp_path, monkeypatch):
    from torch.utils.tensorboard import SummaryWriter

    def refuse(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(SummaryWriter, "add_scalar", refuse)
    with pytest.warns(UserWarning, match="no more events for TensorBoard") as caught:
        assert make_trainer(observers=[TensorBoard(tmp_path)]).run() == 4
    assert sum("TensorBoard" in str(each.message) for each in caught) == 1


def test_other_errors_pass_as_they_are(tmp_path):
    with pytest.raises(ZeroDivisionError), saving(tmp_path / "a", "nothing"):
        raise ZeroDivisionError
