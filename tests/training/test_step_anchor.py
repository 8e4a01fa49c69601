"""The anchored step against one joint autograd graph, and what an anchored run does."""

from __future__ import annotations

import io
import json

import attrs
import pytest
import torch

from flowbp.core import Bridge, Sparse
from flowbp.training import (
    AdamW,
    Anchor,
    Averaging,
    Batching,
    Checkpoints,
    JsonLines,
    NonFiniteError,
    ProgressBar,
    Streams,
    TensorBoard,
    TrainingSampling,
    cost,
    newest_checkpoint,
)

from .cases import BATCHINGS, GUIDANCE, METHODS, close
from .fakes import PROMPTS, FakeBackbone, Network, Recorder, gradients, make_step, make_trainer
from .oracle import joint_gradient


def anchored(backbone: FakeBackbone, strength: float) -> Anchor:
    return Anchor(strength, backbone.reference())


def moved(seed: int) -> tuple[FakeBackbone, Network]:
    """A backbone that has left its reference, and that reference's network."""
    backbone, reference = FakeBackbone(seed), FakeBackbone(seed + 1)
    backbone.reference = reference.reference
    return backbone, reference.module


@pytest.mark.parametrize("guidance", GUIDANCE)
@pytest.mark.parametrize("method", METHODS)
def test_gradient_is_that_of_the_joint_graph(method: str, guidance: str) -> None:
    for seed, batching in enumerate(BATCHINGS):
        backbone, reference = moved(seed)
        step = make_step(
            backbone=backbone,
            method=METHODS[method],
            sampling=GUIDANCE[guidance],
            batching=batching,
            anchor=anchored(backbone, 0.05),
        )
        expected = joint_gradient(step, PROMPTS, Streams.of(seed), reference)
        result = step(PROMPTS, Streams.of(seed))
        assert result.loss.item() == pytest.approx(expected.loss.item(), rel=1e-12)
        assert result.anchor.item() == pytest.approx(expected.anchor.item(), rel=1e-12)
        close(gradients(step), expected.gradients)


@pytest.mark.parametrize("guidance", GUIDANCE)
@pytest.mark.parametrize("method", METHODS)
def test_before_training_the_anchor_changes_nothing(method: str, guidance: str) -> None:
    found = []
    for strength in (None, 100.0):
        backbone = FakeBackbone()
        step = make_step(
            backbone=backbone,
            method=METHODS[method],
            sampling=GUIDANCE[guidance],
            anchor=None if strength is None else anchored(backbone, strength),
        )
        result = step(PROMPTS[:3], Streams.of(0))
        found.append((result.anchor, gradients(step)))
    (nothing, plain), (zero, with_anchor) = found
    assert nothing is None and zero.item() == 0
    assert all(torch.equal(plain[name], with_anchor[name]) for name in plain)


@pytest.mark.parametrize("guidance", GUIDANCE)
@pytest.mark.parametrize("method", METHODS)
def test_cost_counts_the_reference(method: str, guidance: str) -> None:
    backbone = FakeBackbone()
    step = make_step(
        backbone=backbone,
        method=METHODS[method],
        sampling=GUIDANCE[guidance],
        batching=Batching(2, 2, pull=1),
        anchor=anchored(backbone, 1.0),
    )
    result = step(PROMPTS[:4], Streams.of(0))
    assert backbone.forward_samples == 4 * result.cost.forward
    assert backbone.backward_samples == 4 * result.cost.backward
    assert backbone.largest == 2 * step.sampling.branches
    assert result.cost == cost(result.surrogate, step.sampling, anchored=True)
    active = len({i for segment in result.surrogate.segments for i in segment.active})
    extra = result.cost.forward - cost(result.surrogate, step.sampling).forward
    assert extra == active * (1 + result.surrogate.noised) * step.sampling.branches


def run(strength: float | None, **changes) -> tuple[FakeBackbone, list]:
    """Train on few pictures, until the reward is overdone."""
    backbone, recorder = FakeBackbone(), Recorder()
    step = make_step(
        backbone=backbone,
        batching=Batching(4),
        sampling=TrainingSampling(6, 1.0, 4, 4),
        anchor=None if strength is None else anchored(backbone, strength),
    )
    changes = {"steps": 60, "optimizer": AdamW(2e-2), "observers": [recorder], **changes}
    make_trainer(step, **changes).run()
    return backbone, recorder.rows


def test_a_large_strength_keeps_the_model_near_its_reference() -> None:
    """Nearer with every strength, at the price of some reward; Adam's steps bound how near."""
    start, sigma = FakeBackbone().reference(), torch.ones((), dtype=torch.float64)
    distances, rewards = {}, {}
    for strength in (None, 0.1, 1.0):
        backbone, rows = run(strength)
        conditioning = backbone.encode(PROMPTS)
        noise = backbone.noise(5, height=4, width=4, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            gap = backbone.velocity(conditioning)(noise, sigma) - start(conditioning)(noise, sigma)
        distances[strength] = gap.square().mean().item()
        rewards[strength] = sum(row.reward for row in rows[-10:]) / 10
    assert 3 * distances[0.1] < distances[None]
    assert 10 * distances[1.0] < distances[None]
    assert rewards[1.0] < rewards[0.1] < rewards[None]


def test_figures_appear_where_there_is_an_anchor_and_only_there(tmp_path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for strength in (None, 0.5):
        folder, stream = tmp_path / str(strength), io.StringIO()
        observers = [
            JsonLines(folder / "metrics.jsonl"),
            TensorBoard(folder / "events"),
            ProgressBar(3, stream=stream),
        ]
        run(strength, steps=3, observers=observers)
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        values = [row["anchor"] for row in rows]
        tags = EventAccumulator(str(folder / "events")).Reload().Tags()["scalars"]
        if strength is None:
            assert values == [None] * 3
        else:
            assert values[0] == 0 and values[1] > 0 and values[2] > 0
        assert ("train/anchor" in tags) == ("  anchor " in stream.getvalue()) == bool(strength)


def test_loss_is_the_rewards_alone() -> None:
    _, rows = run(0.5, steps=3)
    assert all(row.loss == pytest.approx(-row.reward, rel=1e-6) for row in rows)


@pytest.mark.parametrize("averaging", [None, Averaging(0.9, warmup=True)])
def test_an_anchored_run_is_resumed_exactly(tmp_path, averaging) -> None:
    states = []
    for name, stop in (("whole", 9), ("stopped", 2)):
        checkpoints = Checkpoints(tmp_path / name / "checkpoints")
        lines = JsonLines(tmp_path / name / "metrics.jsonl")

        def act(step: int, stop: int = stop) -> None:
            if step == stop:
                raise KeyboardInterrupt

        parts = {"checkpoints": checkpoints, "averaging": averaging, "steps": 5}
        if stop < 5:
            with pytest.raises(KeyboardInterrupt):
                run(0.5, observers=[lines, Recorder(act=act)], **parts)
            place = newest_checkpoint(tmp_path / name / "checkpoints", "").place
            backbone = FakeBackbone()
            step = make_step(
                backbone=backbone,
                batching=Batching(4),
                sampling=TrainingSampling(6, 1.0, 4, 4),
                anchor=anchored(backbone, 0.5),
            )
            lines = JsonLines(tmp_path / name / "metrics.jsonl")
            trainer = make_trainer(step, optimizer=AdamW(2e-2), observers=[lines], **parts)
            trainer.run(resume=place)
        else:
            backbone, _ = run(0.5, observers=[lines], **parts)
        states.append((backbone.state(), (tmp_path / name / "metrics.jsonl").read_bytes()))
    (whole, whole_lines), (resumed, resumed_lines) = states
    assert whole_lines == resumed_lines
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_reference_that_is_not_finite_is_told() -> None:
    backbone = FakeBackbone()
    broken = Anchor(1.0, lambda conditioning: lambda latents, sigma: latents * torch.nan)
    step = make_step(backbone=backbone, anchor=broken, method=Bridge(active=3))
    with pytest.raises(NonFiniteError, match="the distance to the reference is not finite") as told:
        make_trainer(step).run()
    assert told.value.quantity == "anchor"


@pytest.mark.parametrize("strength", [0, -1.0, float("nan"), float("inf"), True])
def test_an_illegal_strength_is_refused(strength) -> None:
    with pytest.raises(ValueError, match="`strength` must be a number in"):
        anchored(FakeBackbone(), strength)


def test_the_anchor_is_a_value_that_can_be_exchanged() -> None:
    """Another model than the one before training serves as well."""
    backbone, other = FakeBackbone(0), FakeBackbone(3)
    step = make_step(backbone=backbone, method=Sparse(active=2), anchor=anchored(backbone, 1.0))
    elsewhere = attrs.evolve(step, anchor=Anchor(1.0, other.reference()))
    assert step(PROMPTS[:3], Streams.of(0)).anchor == 0
    assert elsewhere(PROMPTS[:3], Streams.of(0)).anchor > 0
