"""What several processes do in the tests, by name; none of it is run in the tests' own process."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import torch
import torch.distributed as dist
from torch.nn.functional import scaled_dot_product_attention

from flowbp.adapters.attention_choice import Choices
from flowbp.adapters.attention_trial import AttentionCall
from flowbp.core import Bridge, SampleClip, module_pull, rollout, sweep
from flowbp.evaluation import (
    HeldOutMeasure,
    HeldOutPrompt,
    Sampling,
    generate_batches,
    take_part,
)
from flowbp.evaluation.metrics import PixelDistance
from flowbp.rewards import Normalisation, RewardPart, UncalibratedReward
from flowbp.training import (
    Anchor,
    Averaging,
    Batching,
    Calibration,
    Checkpoints,
    EarlyStop,
    HeldOutEvaluation,
    PromptList,
    Ranks,
    SavePolicy,
    Snapshots,
    Streams,
    TrainingSampling,
    TrainingStep,
    calibrated,
    calibration_prompts,
    take_part_in_calibration,
)
from flowbp.training.metrics import metrics_row

from .cases import GUIDANCE, METHODS
from .fakes import FakeBackbone, Recorder, colour_reward, gradients, make_step, make_trainer
from .short import Listener, ShortBackbone

TEXTS = tuple(f"prompt {number}" for number in range(7))
"""Seven, so that no batch divides them evenly."""


def single(backbone: FakeBackbone) -> FakeBackbone:
    """The backbone in float32."""
    backbone.module.float()
    backbone._paint = backbone._paint.float()
    encode, noise, sigmas = backbone.encode, backbone.noise, backbone.sigmas

    def encoded(prompts: Sequence[str]) -> Any:
        found = encode(prompts)
        return attrs.evolve(found, tensors={n: t.float() for n, t in found.tensors.items()})

    backbone.encode = encoded
    backbone.noise = lambda *of, **size: noise(*of, **size).float()
    backbone.sigmas = lambda *of, **size: sigmas(*of, **size).float()
    return backbone


def parts_of_step(
    method: str,
    guidance: str,
    batching: Sequence[Any],
    *,
    anchor: float | None = None,
    clip: float | None = None,
    float32: bool = False,
) -> dict[str, Any]:
    backbone = single(FakeBackbone()) if float32 else FakeBackbone()
    *sizes, portions = batching
    return {
        "backbone": backbone,
        "method": METHODS[method],
        "sampling": GUIDANCE[guidance],
        "batching": Batching(*sizes, **portions),
        "anchor": None if anchor is None else Anchor(anchor, backbone.reference()),
        "sample_clip": None if clip is None else SampleClip(clip),
    }


def trained(
    step: TrainingStep,
    *,
    folder: str | None = None,
    every: int | None = None,
    resume: str | None = None,
    observer: Recorder | None = None,
    **changes: Any,
) -> tuple[int, Recorder]:
    """Train on the seven prompts, save and resume where it is told; what was done and observed."""
    observer = observer or Recorder()
    changes = {"prompts": PromptList(TEXTS), "observers": [observer], **changes}
    if folder is not None:
        changes["checkpoints"] = Checkpoints(Path(folder), SavePolicy(every=every))
    done = make_trainer(step, **changes).run(resume=None if resume is None else Path(resume))
    return done, observer


LONG: dict[str, Any] = {"clip": 0.05, "averaging": Averaging(0.5)}
"""What a training has that is compared with that of another number of processes."""


def step_of_eight(ranks: Ranks, backbone: FakeBackbone) -> TrainingStep:
    """A step of eight samples, clipped, so that the processes meet within it."""
    return make_step(
        backbone=backbone,
        method=METHODS["Bridge"],
        batching=Batching(8 // ranks.size),
        sample_clip=SampleClip(0.7),
        ranks=ranks,
    )


def step(ranks: Ranks, cases: Sequence[Sequence[Any]], seed: int = 3) -> list[Any]:
    """One step of each of some cases: rewards by prompt, gradients, where the generators are."""
    found = []
    for positional, named in cases:
        made = make_step(**parts_of_step(*positional, **named), ranks=ranks)
        streams = Streams.of(seed)
        prompts = [f"prompt {number}" for number in range(made.total)]
        result = made(prompts, streams)
        ranks.sum_gradients(made.backbone.trainable().values())
        (rewards,) = ranks.gathered([result.rewards])
        found.append((rewards, gradients(made), streams.states()))
    return found


def clipped_sweep(
    ranks: Ranks, method: str, counts: Sequence[int], *, local: bool = False
) -> torch.Tensor:
    """The gradient of a sweep with clipped samples, of which each rank has so many."""
    backbone, sigmas = FakeBackbone(), FakeBackbone().sigmas(6, height=4, width=4)
    source = torch.Generator().manual_seed(5)
    shape = (sum(counts), 2, 4, 4)
    noise, cotangent = (torch.randn(shape, generator=source, dtype=torch.float64) for _ in "nc")
    # Long tails, and some that a hinge has let go.
    cotangent *= torch.logspace(-3, 3, len(noise), dtype=torch.float64)[:, None, None, None]
    cotangent[1:4] = 0
    before = sum(counts[: ranks.rank])
    own = slice(before, before + counts[ranks.rank])
    codes = backbone.encode([f"prompt {number}" for number in range(len(noise))])
    field = backbone.velocity(codes[own])
    surrogate = METHODS[method].draw(sigmas, torch.Generator().manual_seed(2))
    path = rollout(field, noise[own], sigmas, stop=surrogate.horizon)
    clip = SampleClip(0.8) if local else partial(SampleClip(0.8), among=ranks.among_all)
    sweep(surrogate, path, cotangent[own], module_pull(field), clip=clip)
    ranks.sum_gradients(backbone.trainable().values())
    return torch.cat([each.grad.flatten() for each in backbone.trainable().values()])


def act_at(ranks: Ranks, acts: Mapping[str, Sequence[Any]]) -> Any:
    """A reward that does something on some ranks, named by their numbers, in a call of a number.

    What it does: fail, kill (the process), interrupt (it, at once), signal (an interrupt, and go
    on), spoil (a score) or wait.
    """
    calls = 0

    def reward(images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        nonlocal calls
        calls += 1
        act, at = acts.get(str(ranks.rank), ("", 0))
        scores = colour_reward(images, prompts)
        if calls != at:
            return scores
        if act == "fail":
            raise ValueError(f"no score on {ranks.rank}")
        if act == "spoil":
            return scores * torch.tensor([torch.nan] + [1.0] * (len(scores) - 1))
        if act == "wait":
            time.sleep(60)
        if act == "signal":
            os.kill(os.getpid(), signal.SIGINT)
            return scores
        os.kill(os.getpid(), {"kill": signal.SIGKILL, "interrupt": signal.SIGINT}[act])
        time.sleep(5)
        raise AssertionError("the signal did not come")

    return reward


def ending(
    ranks: Ranks,
    folder: str,
    acts: Mapping[str, Sequence[Any]],
    backbone: FakeBackbone | None = None,
    every: int | None = None,
) -> None:
    """Train until something ends it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    made = make_step(
        backbone=backbone or FakeBackbone(),
        reward=act_at(ranks, acts),
        batching=Batching(2),
        ranks=ranks,
    )
    trained(made, folder=folder, every=every)


def sums(ranks: Ranks) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Gradients of several dtypes and layouts, of which some are missing here or there."""
    number = float(ranks.rank + 1)
    shapes = [(3, 4), (5,), (), (2, 3)]
    parameters = [torch.nn.Parameter(torch.zeros(shape)) for shape in shapes]
    parameters.append(torch.nn.Parameter(torch.zeros(4, dtype=torch.float64)))
    for parameter in parameters[:-1]:
        parameter.grad = torch.full_like(parameter, number)
    parameters[0].grad = torch.full((4, 3), number).T
    if ranks.first:
        parameters[3].grad = None
    expected = [torch.full(shape, 3.0) for shape in shapes]
    expected[3] = torch.full((2, 3), 2.0)
    ranks.sum_gradients(parameters)
    assert parameters[-1].grad is None
    return [(p.grad, wanted) for p, wanted in zip(parameters, expected, strict=False)]


def unallocated(ranks: Ranks) -> list[str]:
    """Sum gradients, some of them missing, where nothing can be allocated once all have agreed."""
    parameters = [torch.nn.Parameter(torch.zeros(3, 4).T), torch.nn.Parameter(torch.zeros(5))]
    for parameter in parameters[ranks.rank :]:
        parameter.grad = torch.ones_like(parameter)
    told: list[str] = []
    exchange, zeros_like, cat, empty = ranks.exchange, torch.zeros_like, torch.cat, torch.empty

    def agreed(value: Any) -> Any:
        told.append("agreed")
        return exchange(value)

    def noted(name: str, original: Any) -> Any:
        def call(*given: Any, **named: Any) -> Any:
            told.append(name)
            return original(*given, **named)

        return call

    ranks.exchange = agreed
    torch.zeros_like, torch.cat = noted("zeros_like", zeros_like), noted("cat", cat)
    torch.empty = noted("empty", empty)
    try:
        ranks.sum_gradients(parameters)
    finally:
        torch.zeros_like, torch.cat, torch.empty = zeros_like, cat, empty
    assert [each.grad.sum().item() for each in parameters] == [12.0, 10.0]
    return told


def kernels(ranks: Ranks) -> tuple[str, list[str]]:
    """Choose among two kernels, of which each process has another for the faster."""
    told: list[str] = []
    times = iter((1.0, 2.0) if ranks.first else (2.0, 1.0))
    choices = Choices(
        dict.fromkeys(("one", "other"), scaled_dot_product_attention),
        clock=lambda run, device: next(times),
        agree=ranks.agreed,
        say=told.append,
    )
    shape, device = (1, 2, 5, 8), torch.device("cpu")
    return choices.of(AttentionCall(shape, 5, torch.bfloat16, device, gradient=True)), told


def short_of_sums(ranks: Ranks) -> None:
    """Train where the second process has no room for a gradient that the others have."""
    made = make_step(batching=Batching(4), ranks=ranks)
    if not ranks.first:
        last = list(made.backbone.trainable().values())[-1]
        original, zeros_like = ranks.sum_gradients, torch.zeros_like

        def lacking(parameters: Any) -> None:
            last.grad = None

            def short(*given: Any, **named: Any) -> Any:
                raise torch.OutOfMemoryError("no room for a gradient")

            torch.zeros_like = short
            try:
                original(parameters)
            finally:
                torch.zeros_like = zeros_like

        ranks.sum_gradients = lacking
    make_trainer(made).run()


def collectives(ranks: Ranks, steps: int, active: int, clip: float | None) -> dict[str, int]:
    """How often training goes to the others."""
    counts = {"all_reduce": 0, "all_gather_object": 0}
    for name in counts:
        original = getattr(dist, name)

        def counted(*given: Any, name: str = name, original: Any = original, **named: Any) -> Any:
            counts[name] += 1
            return original(*given, **named)

        setattr(dist, name, counted)
    made = make_step(
        method=Bridge(active=active),
        sampling=TrainingSampling(6, 3.5, 4, 4, detach_negative=False),
        batching=Batching(4, pull=1),
        sample_clip=None if clip is None else SampleClip(clip),
        ranks=ranks,
    )
    make_trainer(made, steps=steps).run()
    return counts


def differing(ranks: Ranks) -> None:
    """Train models of which each has other weights."""
    make_trainer(make_step(backbone=FakeBackbone(ranks.rank), ranks=ranks)).run()


def other_prompts(ranks: Ranks) -> None:
    """Train on prompts of which one comes at another place on the second process."""
    texts = list(TEXTS)
    if not ranks.first:
        texts[0] += " more"
    make_trainer(make_step(batching=Batching(4), ranks=ranks), prompts=PromptList(texts)).run()


class Noisy(torch.optim.SGD):
    """An optimizer that draws."""

    def step(self, closure: Any = None) -> None:
        super().step()
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.data += 1e-3 * torch.randn_like(parameter)


@attrs.frozen
class Drawing:
    """Builds a `Noisy`."""

    learning_rate: float = 1e-3

    def build(self, parameters: Any) -> torch.optim.Optimizer:
        return Noisy(parameters, lr=self.learning_rate)


def drawing(ranks: Ranks, dropout: float) -> Any:
    """Train with an optimizer that draws, and a network that does too."""
    made = make_step(
        backbone=ShortBackbone(dropout=dropout), batching=Batching(8 // ranks.size), ranks=ranks
    )
    make_trainer(made, optimizer=Drawing(), steps=3).run()
    return made.backbone.state(), torch.rand(2)


def short(ranks: Ranks, limits: Mapping[str, Mapping[str, int]]) -> Any:
    """Train where some ranks have less memory."""
    backbone, listener = ShortBackbone(**limits.get(str(ranks.rank), {})), Listener()
    trained(step_of_eight(ranks, backbone), observer=listener)
    told = [(step, str(portions), text) for step, portions, text in listener.told]
    return backbone.state(), told, backbone.failed, backbone.most


def sampled(ranks: Ranks, prompts: int, batch: int) -> Any:
    """Pictures of a list of prompts, and for how many samples the network was evaluated."""
    backbone, sampling = FakeBackbone(), Sampling(steps=3, height=4, width=4, batch=batch)
    texts = [f"prompt {number}" for number in range(prompts)]
    if ranks.first:
        found = list(generate_batches(backbone, texts, 7, sampling, ranks=ranks))
    else:
        found = take_part(backbone, texts, 7, sampling, ranks)
    return found, backbone.forward_samples // sampling.steps


class Seen:
    """A reward, judge and metric that note the prompts that they are called with."""

    def __init__(self) -> None:
        self.by: dict[str, list[list[str]]] = {}

    def note(self, name: str, prompts: Sequence[Any]) -> None:
        self.by.setdefault(name, []).append([getattr(p, "text", p) for p in prompts])

    def reward(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        self.note("reward", prompts)
        # Not the same to the last bit in another batch.
        return colour_reward(images, prompts) / (1 + images.mean())

    def judge(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        self.note("judge", prompts)
        return (images.mean((1, 2, 3)) > images.mean()).double()

    def spread(self, images: torch.Tensor, prompts: Sequence[Any]) -> dict[str, torch.Tensor]:
        self.note("spread", prompts)
        return {"spread": images.std((1, 2, 3)) * images.mean(), "dark": 1 - images.mean((1, 2, 3))}


def held_out_measure(ranks: Ranks, prompts: int, batch: int, **named: Any) -> HeldOutMeasure:
    return HeldOutMeasure(
        **{"backbone": FakeBackbone(), "reward": colour_reward, **named},
        prompts=[HeldOutPrompt(f"held out {number}") for number in range(prompts)],
        sampling=Sampling(steps=2, height=4, width=4, batch=batch),
        ranks=ranks,
    )


def scored(ranks: Ranks, prompts: int, batch: int) -> Any:
    """What an evaluation has of every picture, and what was called with which prompts."""
    seen = Seen()
    metrics = {"spread": seen.spread}
    if ranks.first:
        metrics |= {"pixels": PixelDistance(label="pixels")}
    measure = held_out_measure(
        ranks, prompts, batch, reward=seen.reward, judge=seen.judge, metrics=metrics
    )
    measure.begin()
    return (measure() if ranks.first else measure.take_part()), seen.by


def scored_otherwise(ranks: Ranks, what: str) -> None:
    """Evaluate where the second process fails, or judges by something else."""

    def fails(images: torch.Tensor, prompts: Sequence[Any]) -> torch.Tensor:
        if ranks.rank == 1:
            raise KeyError("no verdict")
        return torch.ones(len(images))

    named: dict[str, Any] = {}
    if what in ("reward", "judge"):
        named = {what: fails}
    elif what == "metric":
        named = {"metrics": {"mine": fails}}
    elif what == "names":
        named = {
            "metrics": {"mine": lambda images, prompts: {f"of {ranks.rank}": images[:, 0, 0, 0]}}
        }
    elif ranks.rank == 1:
        named = {"metrics": {"mine": fails}}
    measure = held_out_measure(ranks, 5, 2, **named)
    made = make_step(backbone=measure.backbone, batching=Batching(2), ranks=ranks)
    make_trainer(
        made, held_out_evaluation=HeldOutEvaluation(measure=measure, every=2), steps=2
    ).run()


def calibrated_together(ranks: Ranks, folder: str) -> Any:
    """The scales of a reward, and the prompts that its part was called with on this process."""
    seen, backbone, source = Seen(), FakeBackbone(), PromptList(TEXTS)
    how = Calibration(
        path=Path(folder) / "calibration.json",
        seed=3,
        sampling=Sampling(steps=2, height=4, width=4, batch=2),
    )
    parts = {"one": RewardPart(seen.reward), "two": RewardPart(colour_reward)}
    reward = UncalibratedReward(parts, {"two": Normalisation(0.2, 0.1)}, prompts=7)
    if ranks.first:
        made = calibrated(reward, backbone, source, how, ranks=ranks)
        return dict(made.normalisations), seen.by
    texts = calibration_prompts(reward, source, 3)
    return take_part_in_calibration(reward, backbone, texts, how, ranks), seen.by


def measured(ranks: Ranks, folder: str, steps: int, resume: str | None = None) -> Any:
    """Train with real evaluations of averaged weights and with sample pictures, in steps of 8."""
    backbone = FakeBackbone()
    made = make_step(backbone=backbone, batching=Batching(2, global_=8), ranks=ranks)
    measure = HeldOutMeasure(
        backbone=backbone,
        reward=colour_reward,
        metrics={"pixels": PixelDistance(label="pixels"), "spread": Seen().spread},
        prompts=[HeldOutPrompt(f"held out {number}") for number in range(5)],
        sampling=Sampling(steps=3, height=4, width=4, batch=2),
        ranks=ranks,
    )
    _, recorder = trained(
        made,
        folder=folder,
        resume=resume,
        steps=steps,
        averaging=Averaging(0.5),
        held_out_evaluation=HeldOutEvaluation(measure=measure, every=2),
        snapshots=Snapshots(TEXTS, 2, sampling=Sampling(steps=2, height=4, width=4, batch=2)),
    )
    rows = {row.step: row.means for row in recorder.held_out}
    return rows, {step: images for step, images, _ in recorder.shown}, backbone.state()


def evaluated(ranks: Ranks, values: Sequence[float]) -> Any:
    """Train with an evaluation that has these values, and with sample pictures."""
    left = list(values)
    evaluation = HeldOutEvaluation(
        measure=lambda: {"reward": left.pop(0)},
        every=1,
        stop=EarlyStop(metric="reward", patience=2),
    )
    made = make_step(batching=Batching(2), ranks=ranks)
    done, recorder = trained(
        made, steps=9, held_out_evaluation=evaluation, snapshots=Snapshots(["red"], 1)
    )
    return done, len(values) - len(left), len(recorder.shown), made.backbone.state()


def train(
    ranks: Ranks,
    method: str,
    guidance: str,
    batching: Sequence[Any],
    *,
    steps: int = 3,
    dropout: float | None = None,
    folder: str | None = None,
    resume: str | None = None,
    every: int | None = None,
    **named: Any,
) -> Any:
    """Train, and return metrics, parameters and observed rows."""
    parts = parts_of_step(method, guidance, batching, **named)
    if dropout is not None:
        parts["backbone"] = ShortBackbone(dropout=dropout)
    made = make_step(**parts, ranks=ranks)
    done, recorder = trained(made, folder=folder, every=every, resume=resume, steps=steps, **LONG)
    rows = [metrics_row(row) for row in recorder.rows]
    return done, rows, made.backbone.state(), recorder.closed
