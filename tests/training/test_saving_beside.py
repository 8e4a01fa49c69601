"""Checkpoints that are written beside training: of one step, whole or absent, and waited for."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import pytest
import torch

from flowbp.training import (
    AdamW,
    Averaging,
    CheckpointError,
    Checkpoints,
    SavePolicy,
    checkpoint_copy,
    model_damage,
)
from flowbp.training.checkpoint_copy import HostMemoryWarning
from flowbp.training.division import Needs
from flowbp.training.training_state import read_state

from .fakes import FakeBackbone, Recorder, make_step, make_trainer, same, saved

LONG = 30.0
"""Seconds after which a test that waits has failed."""


class Copying(FakeBackbone):
    """Is written from copies, each of which waits until it may be."""

    def __init__(self) -> None:
        super().__init__()
        self.may_write, self.writing, self.threads = threading.Event(), 0, set()
        self.error: Exception | None = None

    def copy_for_saving(self):
        state = self.state()

        def write(folder: Path) -> None:
            self.threads.add(threading.current_thread())
            self.writing += 1
            assert self.may_write.wait(LONG)
            if self.error is not None:
                raise self.error
            torch.save(state, folder / "weights.pt")

        return write


class Freezing(Copying):
    """Has a part that all of its checkpoints have alike."""

    frozen_parts = ("vae.pt",)

    def save(self, folder: Path) -> None:
        super().save(folder)
        torch.save({}, folder / "vae.pt")

    def save_trained(self, folder: Path) -> None:
        super().save(folder)

    def copy_for_saving(self):
        return super().copy_for_saving()


def saving(folder: Path, backbone: FakeBackbone, *, every: int = 2, **changes):
    policy = SavePolicy(every=every)
    step = make_step(backbone=backbone)
    return make_trainer(step, checkpoints=Checkpoints(folder, policy), **changes)


def plain(folder: Path, steps: int) -> None:
    """The same run without copies."""
    assert saving(folder, FakeBackbone(), steps=steps).run() == steps


def test_training_goes_on_meanwhile_and_the_checkpoint_is_of_its_step(tmp_path):
    backbone, seen = Copying(), []

    def act(step: int) -> None:
        place = tmp_path / "beside" / "step-000002"
        seen.append((step, place.exists()))
        if step == 3:
            # After step 4 the run waits for this one.
            backbone.may_write.set()

    assert saving(tmp_path / "beside", backbone, observers=[Recorder(act=act)]).run() == 4
    assert (2, False) in seen and seen[-1] == (4, True)
    assert threading.main_thread() not in backbone.threads and backbone.writing == 2
    plain(tmp_path / "plain", 4)
    for name in ("step-000002", "final"):
        one, other = (tmp_path / kind / name for kind in ("beside", "plain"))
        assert same(saved(one), saved(other)) and model_damage(one, state=True) is None
        assert same(read_state(one).parameters, read_state(other).parameters)
    assert not list(tmp_path.rglob(".*"))


def test_a_failure_ends_the_run_at_the_next_step(tmp_path):
    backbone, failed = Copying(), threading.Event()
    backbone.error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    backbone.may_write.set()

    def act(step: int) -> None:
        if step == 3:
            # It has begun after step 2, and ends some time.
            for thread in backbone.threads:
                failed.wait(0.1 if thread.is_alive() else 0)

    trainer = saving(tmp_path, backbone, steps=50, every=2, observers=[Recorder(act=act)])
    with pytest.raises(CheckpointError, match="`step-000002` was not written") as caught:
        trainer.run()
    # What stopped it is no disk that is full for what is saved without a copy.
    (stopped,) = tmp_path.iterdir()
    assert stopped.name.startswith("stopped-") and int(stopped.name[-6:]) <= 4
    assert caught.value.__notes__ == [
        f"the parameters after step {int(stopped.name[-6:])} are saved in {stopped}, from which "
        "--resume goes on"
    ]


def test_a_failure_at_the_end_is_no_success(tmp_path):
    backbone = Copying()
    backbone.error = OSError(errno.EIO, os.strerror(errno.EIO))
    backbone.may_write.set()
    with pytest.raises(CheckpointError, match="`final` was not written"):
        saving(tmp_path, backbone, steps=1).run()
    assert [path.name for path in tmp_path.iterdir()] == ["stopped-000001"]


@pytest.mark.parametrize(("stop_at", "names"), [(2, ["step-000002"]), (3, ["step-000002", "x-3"])])
def test_an_interrupt_waits_and_saves_once(tmp_path, stop_at, names):
    backbone = Copying()

    def act(step: int) -> None:
        if step == stop_at:
            threading.Timer(0.05, backbone.may_write.set).start()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        saving(tmp_path, backbone, observers=[Recorder(act=act)]).run()
    found = [name.replace("x-3", "interrupted-000003") for name in names]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(found)
    place = tmp_path / found[-1]
    assert caught.value.__notes__ == [f"the parameters after step {stop_at} are saved in {place}"]
    assert all(model_damage(path, state=True) is None for path in tmp_path.iterdir())


def test_a_run_goes_on_from_what_was_written_beside_it(tmp_path):
    backbone = Copying()
    backbone.may_write.set()
    assert saving(tmp_path / "beside", backbone).run() == 4
    again = FakeBackbone(seed=5)
    trainer = saving(tmp_path / "again", again)
    assert trainer.run(resume=tmp_path / "beside" / "step-000002") == 4
    assert same(again.state(), backbone.state())


def test_the_frozen_part_is_written_once_and_then_linked(tmp_path):
    backbone = Freezing()
    backbone.may_write.set()
    assert saving(tmp_path, backbone, every=1, steps=3).run() == 3
    # The first one needs what only `save` writes.
    assert backbone.writing == 2
    first, *others = (tmp_path / n / "vae.pt" for n in ("step-000001", "step-000002", "final"))
    assert all(other.samefile(first) for other in others)
    assert all(model_damage(path.parent, state=True) is None for path in (first, *others))
    torch.testing.assert_close(saved(tmp_path / "final"), backbone.state(), rtol=0, atol=0)


def test_a_frozen_part_that_is_gone_is_written_again(tmp_path):
    backbone = Freezing()
    backbone.may_write.set()

    def act(step: int) -> None:
        if step == 2:
            (tmp_path / "step-000002" / "vae.pt").unlink()

    assert saving(tmp_path, backbone, steps=3, observers=[Recorder(act=act)]).run() == 3
    assert backbone.writing == 0
    assert model_damage(tmp_path / "final", state=True) is None


@pytest.mark.parametrize("free", [0, None])
def test_without_room_for_a_copy_training_waits(tmp_path, monkeypatch, free):
    monkeypatch.setattr(checkpoint_copy, "free_host_memory", lambda: free)
    backbone = Copying()
    backbone.may_write.set()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert saving(tmp_path, backbone, steps=1).run() == 1
    told = [str(each.message) for each in caught if each.category is HostMemoryWarning]
    assert backbone.writing == (0 if free == 0 else 1)
    assert bool(told) == (free == 0)
    assert all("no room for its 0.0 GiB" in each for each in told)
    assert model_damage(tmp_path / "final", state=True) is None


def test_what_is_told_of_the_copy_is_what_it_takes(tmp_path, monkeypatch):
    seen, measured = [], checkpoint_copy._bytes

    def watched(run):
        seen.append(measured(run))
        return seen[-1]

    monkeypatch.setattr(checkpoint_copy, "_bytes", watched)
    backbone, averaging = Copying(), Averaging()
    backbone.may_write.set()
    saving(tmp_path, backbone, steps=1, averaging=averaging).run()
    needs = Needs.of(backbone.module, backbone.trainable(), AdamW(), averaging)
    # AdamW counts the steps of each parameter besides.
    assert needs.copy <= seen[0] <= 1.02 * needs.copy


def test_the_frozen_part_outlives_the_checkpoints_that_need_not_stay(tmp_path):
    backbone, whole = Freezing(), []
    save = backbone.save
    backbone.save = lambda folder: (whole.append(folder.name), save(folder))
    backbone.may_write.set()
    policy = SavePolicy(every=1, keep=1, best=None)
    checkpoints = Checkpoints(tmp_path, policy)
    assert make_trainer(make_step(backbone=backbone), checkpoints=checkpoints).run() == 4
    assert len(whole) == 1 and backbone.writing == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["final", "step-000003"]
    assert model_damage(tmp_path / "final", state=True) is None


def test_what_was_there_before_is_not_taken_for_what_was_not_written(tmp_path):
    backbone = Copying()
    backbone.may_write.set()
    assert saving(tmp_path, backbone, steps=2).run() == 2
    longer = Copying()
    longer.error = OSError(errno.EIO, os.strerror(errno.EIO))
    longer.may_write.set()
    with pytest.raises(CheckpointError, match="`final` was not written") as caught:
        saving(tmp_path, longer, steps=4, every=50).run(resume=tmp_path / "final")
    stopped = tmp_path / "stopped-000004"
    assert caught.value.__notes__ == [
        f"the parameters after step 4 are saved in {stopped}, from which --resume goes on"
    ]
    assert same(saved(stopped), longer.state())


ENDING = """
import sys, time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from flowbp.training.background import Background
from flowbp.training.checkpoint import save_checkpoint

def write(folder):
    # Until the main thread has ended, as after a second interrupt: then no pool takes any work.
    with suppress(RuntimeError):
        while True:
            ThreadPoolExecutor(1).submit(int)
            time.sleep(0.02)
    (folder / "weights").write_text("many")

background = Background()
background.start(lambda: save_checkpoint(write, Path(sys.argv[1]) / "step-000001"))
"""


def test_a_process_that_ends_meanwhile_writes_it_to_its_end(tmp_path):
    subprocess.run([sys.executable, "-c", ENDING, str(tmp_path)], check=True, timeout=60)
    assert (tmp_path / "step-000001" / "weights").is_file()
    assert model_damage(tmp_path / "step-000001") is None
