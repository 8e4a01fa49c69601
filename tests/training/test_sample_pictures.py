"""Sample pictures: fixed noise, at intervals, in portions."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from flowbp.evaluation import Sampling as EvaluationSampling
from flowbp.training import (
    Batching,
    Constant,
    SampleGrids,
    Snapshots,
)

from .fakes import PROMPTS, FakeBackbone, Recorder, make_step, make_trainer


def test_snapshots_are_of_fixed_noise_at_intervals(tmp_path: Path) -> None:
    recorder = Recorder()
    make_trainer(
        steps=5,
        snapshots=Snapshots(["red", "blue"], every=2, seed=3),
        observers=[recorder, SampleGrids(tmp_path)],
        schedule=Constant(),
    ).run()
    assert [step for step, _, _ in recorder.shown] == [0, 2, 4, 5]
    assert {prompts for _, _, prompts in recorder.shown} == {("red", "blue")}
    first, last = recorder.shown[0][1], recorder.shown[-1][1]
    assert first.shape == (2, 3, 4, 4)
    assert not torch.equal(first, last)
    again = Recorder()
    make_trainer(
        steps=1, seed=9, snapshots=Snapshots(["red", "blue"], every=1, seed=3), observers=[again]
    ).run()
    assert torch.equal(again.shown[0][1], first)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *(f"{step:06}.png" for step in (0, 2, 4, 5)),
        "prompts.txt",
    ]


def test_snapshots_refuse_a_single_text() -> None:
    with pytest.raises(TypeError, match="the single text 'a circle'"):
        Snapshots("a circle", every=4)


def test_snapshots_refuse_blanks() -> None:
    with pytest.raises(ValueError, match="`prompts` must hold no blank prompts, got ' '"):
        Snapshots(["a circle", " "], every=4)


def test_snapshots_decode_in_the_portions_of_their_sampling() -> None:
    sizes: list[int] = []
    backbone = FakeBackbone()
    plain = backbone.decode

    def decode(latents: torch.Tensor) -> torch.Tensor:
        sizes.append(len(latents))
        return plain(latents)

    backbone.decode = decode
    step = make_step(backbone=backbone, batching=Batching(5, decode=1))
    Snapshots(PROMPTS, every=1).take(step)
    assert sizes == [1] * 5
    sizes.clear()
    sampling = EvaluationSampling(steps=2, height=4, width=4, decode=2)
    images = Snapshots(PROMPTS, every=1, sampling=sampling).take(step)
    assert sizes == [2, 2, 1] and len(images) == 5
