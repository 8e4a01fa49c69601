"""A step that ran out of memory is done again, and its gradient is that of an undisturbed one."""

from __future__ import annotations

import weakref
from pathlib import Path

import attrs
import pytest
import torch

from flowbp.component_errors import ComponentError
from flowbp.core import Bridge, DRaFT, DRaFTLV
from flowbp.training import (
    AdamW,
    Anchor,
    Batching,
    Checkpoints,
    ExhaustedError,
    PortionLines,
    Portions,
    PromptList,
    SavePolicy,
    Streams,
)
from flowbp.training.memory_fit import retry_on_out_of_memory
from flowbp.training.memory_stages import StageOutOfMemoryError
from flowbp.training.progress import ProgressBar
from flowbp.training.run_state import RunState
from flowbp.training.step import in_portions

from .cases import GUIDANCE, close
from .fakes import PROMPTS, FakeBackbone, gradients, make_step, make_trainer
from .short import DECODE, PULL, SAMPLES, Listener, ShortBackbone

METHODS = {"Bridge": Bridge(active=4), "copies": DRaFTLV(noised=2), "DRaFT": DRaFT(last=3)}
STAGES = (SAMPLES, PULL, DECODE)


def started(step, seed: int = 0) -> RunState:
    return RunState.at_start(step, PromptList(PROMPTS), AdamW(), None, seed=seed)


def with_anchor(backbone: FakeBackbone, **changes: object):
    return make_step(backbone=backbone, anchor=Anchor(0.3, backbone.reference()), **changes)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("batching", [Batching(3, 2), Batching(6, pull=5, decode=4)])
@pytest.mark.parametrize("method", METHODS)
def test_repeated_step_is_the_step(method, batching, stage) -> None:
    prompts = [f"prompt {i}" for i in range(6)]
    parts = {"method": METHODS[method], "batching": batching, "sampling": GUIDANCE["attached"]}
    undisturbed = with_anchor(FakeBackbone(), **parts)
    expected = undisturbed(prompts, Streams.of(3))
    # Not at the first call: what came before it must not count twice.
    short = ShortBackbone(spare={SAMPLES: 5, PULL: 1, DECODE: 1}[stage], **{stage: 1})
    run, listener = started(with_anchor(short, **parts), seed=3), Listener()
    result = retry_on_out_of_memory(run, prompts, [listener])
    assert set(short.failed) == {stage}
    assert getattr(run.step.sizes, stage) == 1 and run.lowered
    assert result.surrogate == expected.surrogate and result.cost == expected.cost
    assert torch.allclose(result.latents, expected.latents, rtol=1e-12, atol=1e-12)
    close(gradients(run.step), gradients(undisturbed))
    # To the bit, it is the step that was never disturbed and worked in these portions at once.
    small = in_portions(with_anchor(FakeBackbone(), **parts), run.step.sizes)
    again = small(prompts, Streams.of(3))
    assert torch.equal(result.loss, again.loss) and torch.equal(result.anchor, again.anchor)
    assert all(torch.equal(g, gradients(small)[n]) for n, g in gradients(run.step).items())
    # The next step's draws are those of a run that was not disturbed either.
    streams = Streams.of(3)
    make_step(**parts)(prompts, streams)
    for name, state in streams.states().items():
        assert torch.equal(run.streams.states()[name], state), name
    steps, portions, told = zip(*listener.told, strict=True)
    assert set(steps) == {1} and portions[-1] == run.step.sizes
    assert all(f"{stage} " in line and "the step is repeated" in line for line in told)


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_goes_on_with_smaller_portions(stage: str) -> None:
    rows, states = [], []
    # Two whole steps fit, and memory gets short in the third.
    calls = {SAMPLES: 2 * 6 + 3, PULL: 2 * 2 + 1, DECODE: 2}[stage]
    for backbone in (FakeBackbone(), ShortBackbone(spare=calls, **{stage: 2})):
        listener = Listener()
        step = make_step(backbone=backbone, batching=Batching(5))
        make_trainer(step, steps=5, observers=[listener]).run()
        rows.append(listener.rows)
        states.append(backbone.state())
    assert [step for step, _, _ in listener.told] == [3]
    assert getattr(listener.told[0][1], stage) == 2
    for one, other in zip(*rows, strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-6)
        assert one.gradient_norm == pytest.approx(other.gradient_norm, rel=1e-6)
    assert all(torch.allclose(states[1][n], each, atol=1e-10) for n, each in states[0].items())


@pytest.mark.parametrize("stage", STAGES)
def test_dropout_is_that_of_a_run_in_these_portions_from_the_start(stage: str) -> None:
    states = []
    typed = {SAMPLES: Batching(2, 2, pull=4, decode=4), PULL: Batching(4, pull=2)}
    small = typed.get(stage, Batching(4, decode=2))
    # Two attempts at the first step: what is drawn for the first must not count.
    for batching, limits in ((small, {}), (Batching(4), {stage: 2})):
        backbone = ShortBackbone(dropout=0.3, **limits)
        step = make_step(backbone=backbone, batching=batching)
        torch.manual_seed(len(states))
        make_trainer(step, observers=[Listener()]).run()
        states.append(backbone.state())
        assert bool(backbone.failed) == bool(limits)
    assert all(torch.equal(states[1][name], each) for name, each in states[0].items())


def test_nothing_of_a_failed_step_is_kept_alive() -> None:
    """By the time it is repeated: from Python 3.12 on its frames form a circle, which is undone."""
    made: list[weakref.ref] = []
    dead: list[bool] = []
    backbone = ShortBackbone(pull=2)
    plain = backbone.velocity

    def velocity(conditioning):
        field = plain(conditioning)

        def watched(latents, sigma):
            if len(backbone.failed) == 1 and not dead:
                dead.extend(each() is None for each in made)
            kept = latents.clone()
            made.append(weakref.ref(kept))
            return field(kept, sigma)

        return watched

    backbone.velocity = velocity
    step = make_step(backbone=backbone, batching=Batching(4))
    retry_on_out_of_memory(started(step), PROMPTS[:4], [Listener()])
    assert len(dead) > 6 and all(dead)


def test_checkpointing_comes_last() -> None:
    backbone = ShortBackbone(pull=0, relief=1, checkpointing="auto")
    listener = Listener()
    make_trainer(make_step(backbone=backbone, batching=Batching(4)), observers=[listener]).run()
    assert backbone.on
    lines = [told for _, _, told in listener.told]
    assert [line.split(": ")[1].split(" from")[0] for line in lines] == [
        "pull 4 -> 2",
        "pull 2 -> 1",
        "gradient checkpointing on",
    ]
    assert listener.told[-1][1] == Portions(samples=4, pull=1, decode=4, checkpointing=True)


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (
            SAMPLES,
            r"in sampling: no room for 1 samples; `samples` of the batching is at 1 .*height",
        ),
        (PULL, r"in the backward pass .*`pull` of the batching is at 1 .*training a LoRA"),
        (DECODE, r"in decoding and scoring: .*`decode` of the batching is at 1 .*smaller reward"),
    ],
)
def test_what_does_not_fit_at_all_is_told(tmp_path: Path, stage: str, message: str) -> None:
    step = make_step(backbone=ShortBackbone(**{stage: 0}), batching=Batching(2, 2, pull=99))
    trainer = make_trainer(step, observers=[Listener()], checkpoints=Checkpoints(tmp_path))
    with pytest.raises(ExhaustedError, match=message) as caught:
        trainer.run()
    assert "the parameters after step 0 are saved" in caught.value.__notes__[0]
    assert isinstance(caught.value, torch.OutOfMemoryError)


def test_prompts_that_cannot_be_encoded_are_told_at_once(tmp_path: Path, monkeypatch) -> None:
    backbone, listener, tried = FakeBackbone(), Listener(), []
    step = make_step(backbone=backbone, batching=Batching(4))

    def encode(prompts):
        tried.append(prompts)
        raise torch.OutOfMemoryError("no room for the encoder")

    monkeypatch.setattr(backbone, "encode", encode)
    trainer = make_trainer(step, observers=[listener], checkpoints=Checkpoints(tmp_path))
    with pytest.raises(ExhaustedError) as caught:
        trainer.run()
    told = "out of memory in encoding the prompts: no room for the encoder; "
    assert str(caught.value).startswith(told) and "`embeddings.batch=1`" in str(caught.value)
    assert "batching" not in str(caught.value)
    assert len(tried) == 1 and listener.told == []
    assert "the parameters after step 0 are saved" in caught.value.__notes__[0]


def test_what_runs_out_of_memory_while_it_is_compiled_has_smaller_portions() -> None:
    torch._dynamo.reset()
    plain = make_step(portions=Portions(samples=1, pull=3, decode=3))
    expected = plain(PROMPTS[:3], Streams.of(0))

    def backend(graph, inputs):
        # Two branches of three samples.
        if any(each.ndim == 4 and len(each) == 6 for each in inputs):
            raise torch.OutOfMemoryError("no room to compile")
        return graph.forward

    backbone, listener = FakeBackbone(), Listener()
    backbone.module.compile(dynamic=False, backend=backend)
    run = started(make_step(backbone=backbone))
    result = retry_on_out_of_memory(run, PROMPTS[:3], [listener])
    assert run.step.sizes.samples == 1
    assert torch.allclose(result.latents, expected.latents, rtol=1e-12, atol=1e-12)
    close(gradients(run.step), gradients(plain))
    (told,) = (told for _, _, told in listener.told)
    assert told.endswith("the step is repeated, and compiled for that first, which takes a while")


def test_a_step_alone_says_what_did_not_fit() -> None:
    step = make_step(backbone=ShortBackbone(decode=1))
    with pytest.raises(StageOutOfMemoryError, match="decoding and scoring: no room for 3 samples"):
        step(PROMPTS[:3], Streams.of(0))


def test_a_reward_without_room_has_smaller_portions() -> None:
    def reward(images, prompts):
        if len(images) > 1:
            raise torch.OutOfMemoryError("towers")
        return images.mean((1, 2, 3))

    run = started(make_step(reward=reward))
    retry_on_out_of_memory(run, PROMPTS[:3], [Listener()])
    assert run.step.sizes == Portions(samples=3, pull=3, decode=1)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:119] DefaultCPUAllocator: can't allocate"),
        MemoryError(),
        RuntimeError("CUDA error: another fault"),
    ],
)
def test_memory_that_a_library_or_the_machine_ran_out_of_is_memory_too(error: Exception) -> None:
    def reward(images, prompts):
        if len(images) > 1:
            raise error
        return images.mean((1, 2, 3))

    run = started(make_step(reward=reward))
    if "another" not in str(error):
        retry_on_out_of_memory(run, PROMPTS[:3], [Listener()])
        assert run.step.sizes.decode == 1
        return
    with pytest.raises(ComponentError, match="another fault"):
        retry_on_out_of_memory(run, PROMPTS[:3], [Listener()])


def test_sizes_beyond_the_batch_are_halved_from_the_batch() -> None:
    backbone = ShortBackbone(pull=2)
    run = started(make_step(backbone=backbone, batching=Batching(4, pull=64)))
    retry_on_out_of_memory(run, PROMPTS[:4], [Listener()])
    assert run.step.sizes.pull == 2 and len(backbone.failed) == 1


def test_without_an_observer_for_it_there_is_a_warning() -> None:
    step = make_step(backbone=ShortBackbone(pull=2))
    with pytest.warns(UserWarning, match=r"step 1: out of memory .*: pull 3 -> 1 from here on"):
        make_trainer(step).run()


def test_progress_and_a_file_tell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    step = make_step(backbone=ShortBackbone(decode=2, spare=2))
    progress = ProgressBar(4, clock=lambda: 0.0)
    make_trainer(step, observers=[progress, PortionLines(tmp_path / "portions.jsonl")]).run()
    line = "out of memory in decoding and scoring: decode 3 -> 1 from here on; the step is repeated"
    assert f"step 3: {line}\n" in capsys.readouterr().err
    assert (
        f'"decode": 1, "checkpointing": null, "told": "{line}"'
        in (tmp_path / "portions.jsonl").read_text()
    )


@pytest.mark.parametrize("changed", [False, True])
def test_smaller_portions_outlive_the_process(tmp_path: Path, changed: bool) -> None:
    def trainer(backbone, batching, folder=tmp_path, **changes):
        step, places = (
            make_step(backbone=backbone, batching=batching),
            Checkpoints(folder, SavePolicy(every=2)),
        )
        return make_trainer(step, checkpoints=places, observers=[Listener()], **changes)

    whole = ShortBackbone(pull=1, checkpointing="auto")
    trainer(whole, Batching(5), tmp_path / "whole").run()
    trainer(ShortBackbone(pull=1, checkpointing="auto"), Batching(5), steps=2).run()
    backbone = ShortBackbone(pull=1, checkpointing="auto")
    batching = Batching(5, pull=4 if changed else "auto")
    trainer(backbone, batching).run(resume=tmp_path / "final")
    # Whoever types another size means it, and the run finds out again what fits.
    assert bool(backbone.failed) == changed
    if not changed:
        assert all(torch.equal(whole.state()[n], each) for n, each in backbone.state().items())


@pytest.mark.parametrize("before, wish", [(False, True), ("auto", True), (True, False)])
def test_checkpointing_that_is_typed_anew_is_meant(tmp_path: Path, before, wish) -> None:
    def trainer(backbone, **changes):
        step, places = make_step(backbone=backbone), Checkpoints(tmp_path, SavePolicy(every=2))
        return make_trainer(step, checkpoints=places, observers=[Listener()], **changes)

    first = ShortBackbone(pull=1, relief=1, checkpointing=before)
    trainer(first, steps=2).run()
    # It saved the other one.
    assert first.failed and first.on != wish
    backbone = ShortBackbone(checkpointing=wish)
    trainer(backbone).run(resume=tmp_path / "final")
    assert backbone.on == wish


def test_a_step_keeps_its_portions_when_another_part_is_replaced() -> None:
    step = in_portions(make_step(), Portions(samples=1, pull=1, decode=1))
    assert attrs.evolve(step, reward=step.reward).sizes.pull == 1
    assert attrs.evolve(step, portions=None).sizes == step.batching.portions
