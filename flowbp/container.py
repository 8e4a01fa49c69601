"""The objects of a run, built from its settings; each can be replaced from Python."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import torch
from dependency_injector import containers, providers

from flowbp.adapters import ACTIVATIONS, Backbone, Tuning, compile_backbone, reference_of
from flowbp.configuration import Component
from flowbp.embeddings import cached
from flowbp.evaluation import HeldOut, HeldOutMeasure, Judge, Metric, spread
from flowbp.evaluation import Sampling as EvaluationSampling
from flowbp.prompts import Shard, ShardedPrompts
from flowbp.rewards import Reward, Towers, UncalibratedReward
from flowbp.settings import AnchorSettings, PointsByEmbedding, RunSettings, Settings, identity
from flowbp.settings.checks import calibration_sampling, evaluation_sampling
from flowbp.settings.devices import chosen_device
from flowbp.settings.intervals import interval
from flowbp.settings.metrics import built_metric
from flowbp.training import (
    Anchor,
    Calibration,
    Checkpoints,
    EarlyStop,
    EvaluationLines,
    History,
    Intervals,
    JsonLines,
    Observer,
    PortionLines,
    Progress,
    PromptSource,
    SampleGrids,
    Snapshots,
    TensorBoard,
    Trainer,
    TrainingStep,
    calibrated,
    calibration_prompts,
    generator,
)

_PIXELS = 192
"""About how wide a picture of a sample grid is on disk."""


def _built(component: Component[Any] | None, **offered: Any) -> Any:
    return None if component is None else component.build(**offered)


def _scorer(component: Component[Any] | None, **offered: Any) -> Any:
    built = _built(component, **offered)
    # A composition that is yet to be calibrated is called only once it is.
    if component is not None and not callable(built) and not isinstance(built, UncalibratedReward):
        raise TypeError(
            f"`name` must make what is called with pictures and prompts, got {component.name!r}, "
            f"which makes a {type(built).__name__} that cannot be called; docs/rewards.md says how "
            "to write one"
        )
    return built


def _tuned(tuning: Tuning, backbone: Backbone, run: RunSettings) -> Backbone:
    tuned = tuning(backbone, generator=generator(run.seed, "tuning"))
    if run.compile:
        kept = ACTIVATIONS if run.activations is None else run.activations
        compile_backbone(tuned, activations=kept)
    return tuned


def _itself(value: Any) -> Any:
    return value


def _anchor(settings: AnchorSettings | None, model: Backbone) -> Anchor | None:
    return None if settings is None else Anchor(settings.strength, reference_of(model))


def _held_out(settings: Settings) -> tuple[HeldOut, ...]:
    return settings.evaluation.prompts.prompts() if settings.evaluation else ()


def _snapshots(
    settings: Settings,
    prompts: PromptSource,
    held_out: Sequence[HeldOut],
    sampling: EvaluationSampling | None,
) -> Snapshots | None:
    samples, evaluation = settings.samples, settings.evaluation
    if samples is None:
        return None
    if evaluation is not None:
        # The first of the evaluation's prompts under its seed and sampling: the very pictures of
        # the report.
        shown = [prompt.text for prompt in held_out[: samples.count]]
        seed = evaluation.noise_seed
        return Snapshots(shown, samples.every, seed=seed, sampling=sampling)
    stream = prompts.stream(generator(settings.run.seed, "samples"))
    return Snapshots(itertools.islice(stream, samples.count), samples.every, seed=settings.run.seed)


def _observers(settings: Settings) -> tuple[Observer, ...]:
    folder, wanted = settings.run.folder, settings.observers
    observers: list[Observer] = []
    if settings.samples is not None:
        scale = max(1, round(_PIXELS / settings.sampling.width))
        observers.append(SampleGrids(folder / "samples", scale=scale))
    if wanted.json_lines:
        observers.append(JsonLines(folder / "metrics.jsonl"))
        observers.append(PortionLines(folder / "portions.jsonl"))
        if interval(settings) is not None:
            observers.append(EvaluationLines(folder / "evaluations.jsonl"))
    if wanted.tensorboard:
        observers.append(TensorBoard(folder / "tensorboard"))
    offered: Mapping[str, Any] = {"folder": folder, "steps": settings.training.steps}
    return (*observers, *(other.build(**offered) for other in wanted.others))


def _checkpoints(settings: Settings) -> Checkpoints:
    wanted = settings.checkpoints
    return Checkpoints(
        settings.run.folder / "checkpoints",
        every=wanted.every,
        keep=wanted.keep,
        best=wanted.best,
        identity=identity(settings),
    )


def _metrics(settings: Settings, device: torch.device, towers: Towers) -> dict[str, Metric]:
    wanted = settings.evaluation.metrics if settings.evaluation else {}
    points = PointsByEmbedding()
    return {
        label: built_metric(label, component, device=device, towers=towers, points=points)
        for label, component in wanted.items()
    }


def _intervals(
    settings: Settings,
    model: Backbone,
    reward: Reward,
    judge: Judge | None,
    metrics: Mapping[str, Metric],
    held_out: Sequence[HeldOut],
    sampling: EvaluationSampling | None,
) -> Intervals | None:
    every, evaluation = interval(settings), settings.evaluation
    if every is None or evaluation is None or sampling is None:
        return None
    measure = HeldOutMeasure(
        backbone=model,
        reward=reward,
        judge=judge,
        metrics=metrics,
        prompts=spread(held_out, evaluation.count),
        sampling=sampling,
        noise_seed=evaluation.noise_seed,
    )
    return Intervals(measure=measure, every=every, stop=_rule(settings))


def _rule(settings: Settings) -> EarlyStop | None:
    return settings.early_stop.rule if settings.early_stop else None


def _calibration(settings: Settings) -> Calibration:
    return Calibration(
        path=settings.run.folder / "calibration.json",
        seed=settings.run.seed,
        sampling=calibration_sampling(settings),
    )


def _scoring_with(step: TrainingStep, built: object, reward: Reward) -> TrainingStep:
    # A step of one's own keeps its own reward.
    return attrs.evolve(step, reward=reward) if step.reward is built is not reward else step


def _joined(
    progress: Observer, history: Observer, observers: Sequence[Observer]
) -> tuple[Observer, ...]:
    return (progress, history, *observers)


class RunContainer(containers.DeclarativeContainer):
    """Everything that a run needs, each part built once and when it is first asked for.

    Any provider can be overridden before the run: ``container.reward.override(...)``.

    Args:
        settings: of the run, `flowbp.settings.Settings`.

    Example:
        >>> from flowbp.settings import load
        >>> typed = ["run.folder=runs/new", "backbone.name=shapes", "reward.name=shapes",
        ...          "prompts.name=shapes", "method.name=sparse", "loss.name=linear",
        ...          "sampling={steps: 4, guidance: 1, height: 64, width: 64}",
        ...          "batching.samples=2"]
        >>> container = RunContainer(settings=load(typed).settings)
        >>> overriding = container.reward.override(providers.Object("a reward of one's own"))
        >>> container.reward(), container.optimizer().learning_rate
        ("a reward of one's own", 1e-05)
    """

    settings: Any = providers.Dependency(instance_of=Settings)
    device: Any = providers.Singleton(chosen_device, settings.provided.run.device)

    backbone: Any = providers.Singleton(_built, settings.provided.backbone, device=device)
    tuning: Any = providers.Callable(_itself, settings.provided.tuning)
    # What is trained of it; an adapter is attached in place.
    tuned: Any = providers.Singleton(_tuned, tuning, backbone, settings.provided.run)
    # The backbone as the run uses it: every prompt is encoded once.
    model: Any = providers.Singleton(
        cached,
        tuned,
        settings.provided.embeddings.folder,
        batch=settings.provided.embeddings.batch,
    )
    # What a reward and a judge read alike is loaded once.
    towers: Any = providers.Singleton(Towers)
    reward: Any = providers.Singleton(
        _scorer, settings.provided.reward, device=device, towers=towers
    )
    judge: Any = providers.Singleton(_scorer, settings.provided.judge, device=device, towers=towers)

    prompts: Any = providers.Callable(_itself, settings.provided.prompts)
    shard: Any = providers.Singleton(Shard.from_environment)
    # Samples are of the whole source, so that every process takes the same pictures.
    own_prompts: Any = providers.Singleton(ShardedPrompts, prompts, shard)
    held_out: Any = providers.Singleton(_held_out, settings)

    calibration: Any = providers.Singleton(_calibration, settings)
    calibration_prompts: Any = providers.Callable(
        calibration_prompts, reward, prompts, settings.provided.run.seed
    )
    # The reward as the run uses it. The first call measures what is not on file, which takes a
    # folder that the run has claimed, and the base model.
    calibrated: Any = providers.Singleton(calibrated, reward, model, prompts, calibration)

    method: Any = providers.Callable(_itself, settings.provided.method)
    loss: Any = providers.Callable(_itself, settings.provided.loss)
    optimizer: Any = providers.Callable(_itself, settings.provided.optimizer)
    schedule: Any = providers.Callable(_itself, settings.provided.schedule)
    evaluation_sampling: Any = providers.Singleton(evaluation_sampling, settings)

    snapshots: Any = providers.Singleton(
        _snapshots, settings, prompts, held_out, evaluation_sampling
    )
    # What evaluations inside the run score besides the reward and the judge.
    metrics: Any = providers.Singleton(_metrics, settings, device, towers)
    intervals: Any = providers.Singleton(
        _intervals, settings, model, calibrated, judge, metrics, held_out, evaluation_sampling
    )
    checkpoints: Any = providers.Singleton(_checkpoints, settings)
    history: Any = providers.Singleton(History)
    observers: Any = providers.Singleton(_observers, settings)
    # Apart from the other observers, because a bar appears on the terminal once it is built.
    progress: Any = providers.Factory(
        Progress, settings.provided.training.steps, stop=providers.Callable(_rule, settings)
    )

    # Built before a checkpoint is loaded, so that its reference is the model before training.
    anchor: Any = providers.Singleton(_anchor, settings.provided.anchor, model)
    step: Any = providers.Singleton(
        TrainingStep,
        backbone=model,
        reward=reward,
        method=method,
        shape=loss,
        sampling=settings.provided.sampling,
        batching=settings.provided.batching,
        anchor=anchor,
    )
    trainer: Any = providers.Factory(
        Trainer,
        step=providers.Singleton(_scoring_with, step, reward, calibrated),
        prompts=own_prompts,
        optimizer=optimizer,
        steps=settings.provided.training.steps,
        schedule=schedule,
        clip=settings.provided.training.clip,
        averaging=settings.provided.training.averaging,
        seed=settings.provided.run.seed,
        observers=providers.Callable(_joined, progress, history, observers),
        snapshots=snapshots,
        checkpoints=checkpoints,
        intervals=intervals,
    )
