"""Evaluations inside a run: when, under which weights, what ends the run, and what of it stays."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flowbp.evaluation import Scale
from flowbp.training import (
    AdamW,
    Averaging,
    CheckpointError,
    Checkpoints,
    EarlyStop,
    EvaluationError,
    EvaluationLines,
    HeldOutEvaluation,
    HeldOutMetrics,
    NonFiniteError,
    RewardHackingWarning,
    SavePolicy,
    TensorBoard,
    Trainer,
)

from .fakes import FakeBackbone, Recorder, make_step, make_trainer


@attrs.define
class Listener(Recorder):
    told: list = attrs.field(factory=list)

    def evaluations(self, rows: object) -> None:
        self.told.append([row.step for row in rows])


def evaluated(*values: float) -> list[HeldOutMetrics]:
    return [HeldOutMetrics(step=4 * i, means={"held": v}) for i, v in enumerate(values)]


def following(values: list[float]) -> Callable[[FakeBackbone], Callable[[], dict[str, float]]]:
    """A measure whose figure falls off a fixed list, by how often the parameters have changed."""

    def of(backbone: FakeBackbone) -> Callable[[], dict[str, float]]:
        seen: list[torch.Tensor] = []

        def measure() -> dict[str, float]:
            torch.rand(3)
            seen.append(backbone.module.bias.detach().clone())
            return {"held": values[len(seen) - 1], "bias": seen[-1].sum().item()}

        return measure

    return of


def test_the_rule() -> None:
    stop = EarlyStop(metric="held", patience=2, min_delta=0.1)
    assert not stop.ends([])
    assert not stop.ends(evaluated(0.5, 0.7, 0.7))
    assert stop.ends(evaluated(0.5, 0.7, 0.7, 0.75))
    assert not stop.ends(evaluated(0.5, 0.7, 0.7, 0.85))
    assert stop.best(evaluated(0.5, 0.7, 0.75, 0.75)).step == 8
    assert stop.best([]) is None
    assert stop.best([HeldOutMetrics(step=0, means={"other": 1.0})]) is None


@given(st.lists(st.integers(0, 9), min_size=1, max_size=12), st.integers(1, 4), st.integers(0, 3))
def test_the_rule_against_a_plain_reading(values: list[int], patience: int, delta: int) -> None:
    rises = [0]
    for i, value in enumerate(values):
        if value > values[rises[-1]] + delta:
            rises.append(i)
    expected = len(values) - 1 - rises[-1] >= patience
    stop = EarlyStop(metric="held", patience=patience, min_delta=delta)
    assert stop.ends(evaluated(*values)) == expected
    assert stop.best(evaluated(*values)).step == 4 * values.index(max(values))


def test_where_less_is_better_a_fall_is_a_rise() -> None:
    stop = EarlyStop(metric="held", patience=2, min_delta=0.1)
    rows = [attrs.evolve(row, signs={"held": -1}) for row in evaluated(0.7, 0.5, 0.45, 0.6)]
    assert [stop.waited(rows[:n]) for n in range(5)] == [0, 0, 0, 1, 2]
    assert stop.ends(rows) and stop.best(rows).step == 8 and stop.less_is_better(rows)
    assert not stop.ends(evaluated(0.7, 0.5, 0.45, 0.9)) and not stop.less_is_better([])


@attrs.frozen
class Scaled:
    """A measure that says what its metrics are."""

    measure: Callable[[], dict[str, float]]
    scales: dict[str, Scale]

    def __call__(self) -> dict[str, float]:
        return self.measure()


def test_a_run_ends_where_a_figure_falls_no_more_and_goes_on_so(tmp_path: Path) -> None:
    run, _ = trainer(tmp_path, [0.5, 0.4, 0.1, 0.2, 0.3])
    scaled = Scaled(
        run.held_out_evaluation.measure, {"held": Scale(sign=-1), "bias": Scale(), "no": Scale()}
    )
    run = attrs.evolve(
        run, held_out_evaluation=attrs.evolve(run.held_out_evaluation, measure=scaled)
    )
    assert run.run() == 8 and names(tmp_path) == ["best-000004", "final"]
    again, listener = trainer(tmp_path, [0.0])
    assert again.run(resume=tmp_path / "checkpoints/final") == 8 and listener.rows == []
    assert [row["signs"] for row in evaluations(tmp_path / "checkpoints")] == [{"held": -1}] * 5


def test_a_figure_without_better_and_worse_ends_no_run(tmp_path: Path) -> None:
    message = "`early_stop.metric` is 'held', of which neither more nor less is better"
    before, _ = trainer(tmp_path, [0.5] * 9, stop=None, steps=2)
    before.run()
    for resume in (None, tmp_path / "checkpoints/final"):
        run, listener = trainer(tmp_path / f"{resume is None}", [0.5] * 9)
        scaled = Scaled(run.held_out_evaluation.measure, {"held": Scale(sign=0)})
        run = attrs.evolve(
            run, held_out_evaluation=attrs.evolve(run.held_out_evaluation, measure=scaled)
        )
        with pytest.raises(EvaluationError, match=message):
            run.run(resume=resume)
        assert listener.rows == []


@pytest.mark.parametrize("changes", [{"patience": 0}, {"min_delta": -1.0}, {"metric": " "}])
def test_rules_that_cannot_be_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=f"`{next(iter(changes))}` must"):
        EarlyStop(**{"metric": "held", **changes})


def trainer(tmp_path: Path, values: list[float], **changes: object) -> tuple[Trainer, Listener]:
    backbone, listener = FakeBackbone(), Listener()
    stop = changes.pop("stop", EarlyStop(metric="held", patience=2))
    measure = following(values)(backbone)
    checkpointing = changes.pop("checkpointing", {})
    return make_trainer(
        make_step(backbone=backbone),
        held_out_evaluation=HeldOutEvaluation(
            measure=measure, every=changes.pop("every", 2), stop=stop
        ),
        checkpoints=Checkpoints(tmp_path / "checkpoints", SavePolicy(**checkpointing)),
        **{"steps": 20, "observers": [listener], "optimizer": AdamW(1e-2), **changes},
    ), listener


def names(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "checkpoints").iterdir())


def test_a_run_ends_and_keeps_its_best(tmp_path: Path) -> None:
    # Steps 0, 2, 4, 6, 8: the best is that of step 4, and two without a rise follow.
    run, listener = trainer(tmp_path, [0.1, 0.2, 0.5, 0.4, 0.5])
    assert run.run() == 8
    assert listener.told[-1] == [0, 2, 4, 6, 8] and len(listener.rows) == 8
    assert names(tmp_path) == ["best-000004", "final"]
    state = json.loads((tmp_path / "checkpoints/final/training/state.json").read_text())
    assert [row["step"] for row in state["evaluations"]] == [0, 2, 4, 6, 8]


def test_without_a_stop_nothing_ends_and_nothing_more_stays(tmp_path: Path) -> None:
    run, listener = trainer(tmp_path, [0.5] * 9, stop=None, steps=5)
    assert run.run() == 5
    assert listener.told == [[0], [0, 2], [0, 2, 4], [0, 2, 4, 5]]
    assert names(tmp_path) == ["final"]


RETENTION = {
    "regular ones all stay": ({"every": 2}, ["best-000002", "best-000004", "final", "step-000006"]),
    "but the newest": (
        {"every": 2, "keep": 1, "best": None},
        ["best-000004", "final", "step-000006"],
    ),
    "rare ones": ({"every": 3}, ["best-000004", "final", "step-000003", "step-000006"]),
}


@pytest.mark.parametrize("checkpointing, expected", RETENTION.values(), ids=RETENTION)
def test_what_stays(tmp_path: Path, checkpointing: dict[str, Any], expected: list[str]) -> None:
    run, _ = trainer(tmp_path, [0.1, 0.2, 0.5, 0.4, 0.5], checkpointing=checkpointing)
    assert run.run() == 8
    assert names(tmp_path) == expected


@pytest.mark.parametrize("averaging", [None, Averaging(0.5)])
def test_training_is_the_same_with_evaluations_and_without(averaging: Averaging | None) -> None:
    rows = []
    for evaluated in (False, True):
        backbone, recorder = FakeBackbone(), Recorder()

        def measure() -> dict[str, float]:
            return {"held": torch.rand(1).item()}

        make_trainer(
            make_step(backbone=backbone),
            averaging=averaging,
            observers=[recorder],
            held_out_evaluation=HeldOutEvaluation(measure=measure, every=1) if evaluated else None,
        ).run()
        rows.append((recorder.rows, backbone.state()))
    assert rows[0][0] == rows[1][0]
    assert all(torch.equal(rows[0][1][name], rows[1][1][name]) for name in rows[0][1])


def test_the_averaged_weights_are_evaluated() -> None:
    backbone, averages = FakeBackbone(), []

    def measure() -> dict[str, float]:
        averages.append(backbone.module.bias.detach().clone())
        return {"held": 0.0}

    intervals = HeldOutEvaluation(measure=measure, every=4)
    make_trainer(
        make_step(backbone=backbone), averaging=Averaging(0.5), held_out_evaluation=intervals
    ).run()
    assert torch.equal(averages[-1], backbone.module.bias)


def values_of(backbone: FakeBackbone) -> Callable[[], dict[str, float]]:
    """A figure that only the parameters decide, which rises and falls again."""
    start = backbone.module.bias.detach().clone()
    return lambda: {"held": -abs((backbone.module.bias - start).norm().item() - 0.05)}


def resumable(folder: Path, steps: int, **changes: object) -> tuple[Trainer, Listener]:
    backbone, listener = FakeBackbone(), Listener()
    stop = EarlyStop(metric="held", patience=changes.pop("patience", 2))
    return make_trainer(
        make_step(backbone=backbone),
        steps=steps,
        held_out_evaluation=HeldOutEvaluation(measure=values_of(backbone), every=2, stop=stop),
        checkpoints=Checkpoints(folder, SavePolicy(every=1)),
        observers=[listener, *changes.pop("observers", [])],
    ), listener


def evaluations(folder: Path) -> list[dict[str, object]]:
    return json.loads((folder / "final/training/state.json").read_text())["evaluations"]


def test_a_run_that_goes_on_ends_where_it_would_have(tmp_path: Path) -> None:
    whole, _ = resumable(tmp_path / "whole", 40)
    ended = whole.run()
    assert 4 < ended < 40
    for step in range(1, ended):
        place = next((tmp_path / "whole").glob(f"*-{step:06}"))
        again, listener = resumable(tmp_path / f"{step}", 40)
        assert again.run(resume=place) == ended
        assert evaluations(tmp_path / f"{step}") == evaluations(tmp_path / "whole")
        assert listener.rows[0].step == step + 1
    weights = [torch.load(tmp_path / n / "final/weights.pt") for n in ("whole", "3")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_more_patience_goes_on_and_less_does_not(tmp_path: Path) -> None:
    first, _ = resumable(tmp_path, 40)
    ended = first.run()
    same, listener = resumable(tmp_path, 40)
    assert same.run(resume=tmp_path / "final") == ended and listener.rows == []
    more, _ = resumable(tmp_path, 40, patience=4)
    assert more.run(resume=tmp_path / "final") == ended + 4


def test_an_evaluation_after_a_former_last_step_does_not_count(tmp_path: Path) -> None:
    short, _ = resumable(tmp_path, 3)
    assert short.run() == 3 and [row["step"] for row in evaluations(tmp_path)] == [0, 2, 3]
    longer, _ = resumable(tmp_path, 5)
    longer.run(resume=tmp_path / "final")
    assert [row["step"] for row in evaluations(tmp_path)] == [0, 2, 4, 5]


def test_interrupted_with_all_done_it_still_writes_the_last(tmp_path: Path) -> None:
    def interrupt(step: int) -> None:
        raise KeyboardInterrupt

    whole, _ = resumable(tmp_path / "whole", 40)
    ended = whole.run()
    (tmp_path / "whole/final").rename(tmp_path / "whole" / f"interrupted-{ended:06}")
    again, _ = resumable(tmp_path / "whole", 40)
    assert again.run(resume=tmp_path / "whole" / f"interrupted-{ended:06}") == ended
    assert (tmp_path / "whole/final/weights.pt").is_file()


FAULTS = {
    "not finite": ({"held": float("nan")}, "after step 0 stopped: `held` must be finite, got nan"),
    "another figure": ({"reward": 0.5}, "`early_stop.metric` is 'held', and .* has reward; name"),
}


@pytest.mark.parametrize("found, message", FAULTS.values(), ids=FAULTS)
def test_figures_that_cannot_be_used(found: dict[str, float], message: str) -> None:
    intervals = HeldOutEvaluation(measure=lambda: found, every=2, stop=EarlyStop(metric="held"))
    with pytest.raises(EvaluationError, match=message):
        make_trainer(held_out_evaluation=intervals).run()


def test_a_measure_that_refuses_is_told_with_its_step(tmp_path: Path) -> None:
    calls = []

    def measure() -> dict[str, float]:
        calls.append(1)
        if len(calls) == 2:
            raise ValueError("`reward` of the prompt 'red' must be finite")
        return {"held": 0.0}

    with pytest.raises(EvaluationError, match="after step 2 stopped: `reward` of") as caught:
        make_trainer(
            held_out_evaluation=HeldOutEvaluation(measure=measure, every=2),
            checkpoints=Checkpoints(tmp_path),
        ).run()
    assert "are saved in" in caught.value.__notes__[0]
    assert (tmp_path / "stopped-000002/weights.pt").is_file()


def test_broken_parameters_are_told_as_such(tmp_path: Path) -> None:
    backbone = FakeBackbone()

    def spoil(step: int) -> None:
        with torch.no_grad():
            backbone.module.bias.fill_(float("inf"))

    measure = HeldOutEvaluation(measure=lambda: {"held": 0.0}, every=1)
    step = make_step(backbone=backbone)
    original = step.backbone.module.bias.clone()
    assert original.isfinite().all()
    spoil(0)
    with pytest.raises(NonFiniteError, match="parameters"):
        make_trainer(step, held_out_evaluation=measure, checkpoints=Checkpoints(tmp_path)).run()


def test_a_best_checkpoint_of_another_run_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "best-000004").mkdir()
    (tmp_path / "best-000004/weights.pt").write_text("mine")
    with pytest.raises(CheckpointError, match="must have no `best-000004` from before"):
        make_trainer(checkpoints=Checkpoints(tmp_path)).run()


def test_the_files(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def observers() -> list[object]:
        return [EvaluationLines(tmp_path / "evaluations.jsonl"), TensorBoard(tmp_path / "events")]

    first, _ = resumable(tmp_path / "a", 3, observers=observers())
    first.run()
    second, _ = resumable(tmp_path / "a", 6, observers=observers())
    second.run(resume=tmp_path / "a/final")
    lines = [json.loads(line) for line in (tmp_path / "evaluations.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 2, 4, 6] and set(lines[0]) == {"step", "held"}
    events = EventAccumulator(str(tmp_path / "events")).Reload().Scalars("evaluation/held")
    assert [event.step for event in events if event.step != 3] == [0, 2, 4, 6]
    assert [e.value for e in events if e.step == 6] == pytest.approx([lines[-1]["held"]])


def test_the_numbers_of_every_prompt_are_kept_with_their_mean():
    row = HeldOutMetrics.of(8, {"held": (0.25, float("nan"), 0.75), "whole": 2.0}, {})
    assert row.means == {"held": 0.5, "whole": 2.0} and set(row.each) == {"held"}
    again = HeldOutMetrics(**json.loads(json.dumps(attrs.asdict(row))))
    # NaN equals nothing, not even itself.
    assert str(again.each) == str(row.each) and again.means == row.means


def test_a_metric_that_falls_while_the_reward_rises_is_warned_of_once() -> None:
    """By single prompts: worse in two evaluations in a row, and again after a rise in between."""
    heights = {
        "reward": (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8),
        "held": (0.5, 0.8, 0.4, 0.3, 0.8, 0.3, 0.2, 0.2),
    }
    source = torch.Generator().manual_seed(0)
    noise = {name: (0.01 * torch.rand(24, generator=source)).tolist() for name in heights}
    calls = iter(range(8))

    def measure() -> dict[str, list[float]]:
        call = next(calls)
        return {name: [heights[name][call] + each for each in noise[name]] for name in heights}

    trainer = make_trainer(steps=7)
    evaluation = HeldOutEvaluation(measure=measure, every=1)
    with pytest.warns(RewardHackingWarning) as found:
        attrs.evolve(trainer, held_out_evaluation=evaluation).run()
    (only,) = (each for each in found if each.category is RewardHackingWarning)
    assert "From step 2 on the reward rose while held fell: it was best at step 1" in str(
        only.message
    )
    assert "beyond chance on 24 prompts" in str(only.message)
    assert "early_stop with the metric held" in str(only.message)


@pytest.mark.parametrize("held", [(0.5, 0.5, 0.5), (0.5, 0.6, 0.7), (0.7, 0.6, 0.5)])
def test_without_a_rise_of_the_reward_nothing_is_hacked(held, recwarn) -> None:
    calls = iter(held)

    def measure() -> dict[str, list[float]]:
        value = next(calls)
        return {"reward": [0.5] * 24, "held": [value] * 24}

    trainer = make_trainer(steps=2)
    evaluation = HeldOutEvaluation(measure=measure, every=1)
    attrs.evolve(trainer, held_out_evaluation=evaluation).run()
    assert not [each for each in recwarn if each.category is RewardHackingWarning]
