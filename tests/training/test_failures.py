"""What ends a run early costs nothing that was trained, and says where it is."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch

from flowbp.component_errors import ComponentError
from flowbp.training import (
    AdamW,
    Checkpoints,
    ExhaustedError,
    Snapshots,
)

from .fakes import PROMPTS, FakeBackbone, Recorder, make_step, make_trainer, same, saved

GOES_ON = ", from which --resume goes on"


def test_interrupt_saves_closes_and_goes_on_up(tmp_path: Path) -> None:
    backbone = FakeBackbone()
    states = []

    def act(step: int) -> None:
        states.append(backbone.state())
        if step == 2:
            raise KeyboardInterrupt

    recorder = Recorder(act=act)
    trainer = make_trainer(
        make_step(backbone=backbone), observers=[recorder], checkpoints=Checkpoints(tmp_path)
    )
    with pytest.raises(KeyboardInterrupt) as caught:
        trainer.run()
    assert caught.value.__notes__ == [
        f"the parameters after step 2 are saved in {tmp_path / 'interrupted-000002'}"
    ]
    assert same(saved(tmp_path / "interrupted-000002"), states[-1])
    assert recorder.closed == 1


def test_interrupt_in_the_middle_of_an_update_waits_for_its_end(tmp_path: Path) -> None:
    class Interrupting(AdamW):
        def build(self, parameters):
            optimizer = super().build(parameters)
            step = optimizer.step

            def interrupted():
                os.kill(os.getpid(), signal.SIGINT)
                step()

            optimizer.step = interrupted
            return optimizer

    undisturbed = FakeBackbone()
    make_trainer(make_step(backbone=undisturbed), steps=1).run()
    with pytest.raises(KeyboardInterrupt):
        make_trainer(optimizer=Interrupting(1e-2), checkpoints=Checkpoints(tmp_path)).run()
    assert same(saved(tmp_path / "interrupted-000001"), undisturbed.state())


def test_observers_are_closed_when_one_fails() -> None:
    def fail(step: int) -> None:
        raise RuntimeError("disk")

    recorders = [Recorder(), Recorder(act=fail)]
    with pytest.raises(RuntimeError, match="disk"):
        make_trainer(observers=recorders).run()
    assert [recorder.closed for recorder in recorders] == [1, 1]


def test_any_failure_saves_what_was_trained_and_says_where(tmp_path: Path) -> None:
    backbone, states = FakeBackbone(), []

    def fail(step: int) -> None:
        states.append(backbone.state())
        if step == 2:
            raise RuntimeError("no space left for events")

    step, folder = make_step(backbone=backbone), Checkpoints(tmp_path)
    trainer = make_trainer(step, observers=[Recorder(act=fail)], checkpoints=folder)
    with pytest.raises(RuntimeError, match="no space") as caught:
        trainer.run()
    place = tmp_path / "stopped-000002"
    assert caught.value.__notes__ == [f"the parameters after step 2 are saved in {place}{GOES_ON}"]
    assert same(saved(place), states[-1])


def test_a_failing_picture_does_not_cost_the_last_checkpoint(tmp_path: Path) -> None:
    class Broken(Recorder):
        def pictures(self, step, images, prompts):
            if step:
                raise RuntimeError("cannot write the picture")

    snapshots = Snapshots(PROMPTS[:1], every=1000)
    trainer = make_trainer(
        observers=[Broken()], snapshots=snapshots, checkpoints=Checkpoints(tmp_path)
    )
    with pytest.raises(RuntimeError, match="picture"):
        trainer.run()
    assert (tmp_path / "final" / "weights.pt").exists()


def test_an_observer_cannot_cost_the_last_checkpoint(tmp_path: Path) -> None:
    def fail(step: int) -> None:
        if step == 4:
            raise OSError(28, "No space left on device")

    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(ComponentError, match=r"fakes:Recorder raised OSError.*step 4") as caught:
        make_trainer(observers=[Recorder(act=fail)], checkpoints=checkpoints).run()
    place = tmp_path / "final"
    assert caught.value.__notes__ == [f"the parameters after step 4 are saved in {place}{GOES_ON}"]
    assert [path.name for path in tmp_path.iterdir()] == ["final"]


def test_failure_in_the_middle_of_an_update_is_told(tmp_path: Path) -> None:
    class Failing(AdamW):
        def build(self, parameters):
            optimizer = super().build(parameters)

            def fail():
                raise torch.OutOfMemoryError("no memory for the moments")

            optimizer.step = fail
            return optimizer

    told = "in the update of the parameters: no memory for the moments; .* training a LoRA"
    with pytest.raises(ExhaustedError, match=told) as caught:
        make_trainer(optimizer=Failing(1e-2), checkpoints=Checkpoints(tmp_path)).run()
    assert "some of them already changed by the next step" in caught.value.__notes__[0]
    assert (tmp_path / "stopped-000000" / "weights.pt").exists()
