from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch

from flowbp.core import Bridge, DRaFT, DRaFTLV, Sparse
from flowbp.training import (
    AdamW,
    Averaging,
    Batching,
    CheckpointError,
    Checkpoints,
    Constant,
    JsonLines,
    LinearDecay,
    SavePolicy,
    Snapshots,
    TrainingSampling,
)

from .fakes import PROMPTS, FakeBackbone, Recorder, make_step, make_trainer, same, saved


def states_by_step(backbone: FakeBackbone) -> tuple[Recorder, list[dict[str, torch.Tensor]]]:
    """An observer, and the parameters that it saw: before training and after each step."""
    states = [backbone.state()]
    return Recorder(act=lambda step: states.append(backbone.state())), states


@pytest.mark.parametrize("method", [Bridge(active=4), Sparse(active=4), DRaFT(last=6)])
def test_run_raises_the_reward(method: object) -> None:
    recorder = Recorder()
    step = make_step(method=method, batching=Batching(8), sampling=TrainingSampling(6, 1.0, 4, 4))
    make_trainer(step, steps=60, optimizer=AdamW(5e-2), observers=[recorder]).run()
    rewards = [row.reward for row in recorder.rows]
    assert sum(rewards[-10:]) / 10 > sum(rewards[:10]) / 10 + 0.08


@pytest.mark.parametrize("method", [Bridge(active=3), DRaFTLV(noised=1)])
def test_same_seed_same_run_bit_for_bit(tmp_path: Path, method: object) -> None:
    runs = []
    for number, seed in enumerate((7, 7, 8)):
        backbone, path = FakeBackbone(), tmp_path / f"{number}.jsonl"
        step = make_step(backbone=backbone, method=method)
        torch.manual_seed(number)
        make_trainer(step, seed=seed, observers=[JsonLines(path)]).run()
        runs.append((path.read_bytes(), backbone.state()))
    (text, state), (text_again, state_again), (text_other, state_other) = runs
    assert text == text_again
    assert same(state, state_again)
    assert text != text_other
    assert not same(state, state_other)


def test_metrics_of_a_step() -> None:
    recorder, times = Recorder(), iter(range(100))
    step = make_step(method=Bridge(active=3))
    schedule = LinearDecay(final_ratio=0.5)
    make_trainer(
        step, steps=3, schedule=schedule, observers=[recorder], clock=lambda: float(next(times))
    ).run()
    assert [row.step for row in recorder.rows] == [1, 2, 3]
    assert [row.learning_rate for row in recorder.rows] == pytest.approx([0.01, 0.0075, 0.005])
    for row in recorder.rows:
        assert row.velocity_calls == 12 + 3
        assert row.seconds == 1
        assert row.loss == pytest.approx(-row.reward, rel=1e-6)
        assert len(row.residuals) == 2 and None not in row.residuals
        assert row.reward_std >= 0
        assert row.gradient_norm > 0
    assert recorder.closed == 1


def test_clipping_bounds_what_the_optimizer_sees() -> None:
    seen = []

    class Plain(AdamW):
        def build(self, parameters):
            optimizer = torch.optim.SGD(list(parameters), lr=self.learning_rate)
            step = optimizer.step

            def watched():
                gradients = [p.grad for g in optimizer.param_groups for p in g["params"]]
                seen.append(torch.cat([g.flatten() for g in gradients]).norm().item())
                step()

            optimizer.step = watched
            return optimizer

    for clip in (1e-3, None):
        recorder = Recorder()
        make_trainer(clip=clip, observers=[recorder], optimizer=Plain(1e-4)).run()
        norms = [row.gradient_norm for row in recorder.rows]
        assert all(norm > 1e-3 for norm in norms)
        expected = [clip] * 4 if clip else norms
        assert seen[-4:] == pytest.approx(expected, rel=1e-5)


def test_gradients_do_not_leak_from_step_to_step() -> None:
    backbone = FakeBackbone()
    for parameter in backbone.module.parameters():
        parameter.grad = torch.full_like(parameter, 1e6)
    plain = FakeBackbone()
    make_trainer(make_step(backbone=backbone)).run()
    make_trainer(make_step(backbone=plain)).run()
    assert same(backbone.state(), plain.state())
    assert all(p.grad is None for p in backbone.module.parameters())


def test_averaged_weights_are_saved_and_left_in_the_model(tmp_path: Path) -> None:
    backbone = FakeBackbone()
    recorder, states = states_by_step(backbone)
    make_trainer(
        make_step(backbone=backbone),
        averaging=Averaging(0.5),
        observers=[recorder],
        checkpoints=Checkpoints(tmp_path, SavePolicy(every=2)),
    ).run()
    expected = states[0]
    for number, state in enumerate(states[1:], 1):
        expected = {n: 0.5 * expected[n] + 0.5 * state[n] for n in expected}
        name = {2: "step-000002", 4: "final"}.get(number)
        if name:
            for key, tensor in saved(tmp_path / name).items():
                torch.testing.assert_close(tensor, expected[key], rtol=1e-12, atol=1e-15)
    assert same(backbone.state(), saved(tmp_path / "final"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["final", "step-000002"]


def test_averaging_does_not_change_what_is_trained() -> None:
    runs = []
    for averaging in (None, Averaging(0.9)):
        backbone = FakeBackbone()
        recorder, states = states_by_step(backbone)
        snapshots = Snapshots(["red"], every=1)
        make_trainer(
            make_step(backbone=backbone),
            averaging=averaging,
            snapshots=snapshots,
            observers=[recorder],
        ).run()
        runs.append(states)
    assert all(same(*pair) for pair in zip(*runs, strict=True))


def test_guidance_that_trains_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`guidance` must not be 0 .* 1 switches guidance off"):
        TrainingSampling(steps=4, guidance=0, height=8, width=8)
    TrainingSampling(steps=4, guidance=0, height=8, width=8, detach_negative=False)


def test_prompts_come_from_the_source() -> None:
    backbone = FakeBackbone()
    make_trainer(make_step(backbone=backbone, batching=Batching(5)), steps=2).run()
    assert [sorted(prompts) for prompts in backbone.encoded[1:]] == [sorted(PROMPTS)] * 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0}, "`steps` must be an integer >= 1"),
        ({"clip": 0}, "`clip` must be a number in"),
        ({"schedule": Constant(warmup=4)}, "`warmup` must be below the run's 4"),
    ],
)
def test_illegal_trainer_is_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_trainer(**arguments)


def test_rows_are_standard_json(tmp_path: Path) -> None:
    make_trainer(observers=[JsonLines(tmp_path / "m.jsonl")]).run()
    rows = [json.loads(line) for line in (tmp_path / "m.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert all(row["residual_1"] is None for row in rows)


@pytest.mark.parametrize("name", ["final", "step-000002"])
def test_taken_name_is_refused_before_training(tmp_path: Path, name: str) -> None:
    (tmp_path / "final").mkdir()
    (tmp_path / name).mkdir(exist_ok=True)
    (tmp_path / name / "thesis.tex").write_text("years of work")
    recorder = Recorder()
    trainer = make_trainer(
        observers=[recorder], checkpoints=Checkpoints(tmp_path, SavePolicy(every=2))
    )
    with pytest.raises(CheckpointError, match=f"must have no `{name}` from before"):
        trainer.run()
    assert recorder.rows == []


@pytest.mark.parametrize(("dtype", "warned"), [(torch.bfloat16, True), (torch.float32, False)])
def test_coarse_weights_are_warned_of(dtype: torch.dtype, warned: bool) -> None:
    backbone = FakeBackbone()
    backbone.module.bias.data = backbone.module.bias.data.to(dtype)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        make_trainer(make_step(backbone=backbone), steps=1).run()
    told = [str(each.message) for each in caught if "rounded away" in str(each.message)]
    assert bool(told) == warned
    assert all("1 of 4" in text and "compute: bfloat16" in text for text in told)
