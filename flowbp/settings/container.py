"""The objects of a run, built from its settings; each can be replaced from Python."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any

import attrs
import torch
from dependency_injector import containers
from dependency_injector.providers import Callable as Called
from dependency_injector.providers import Dependency, Factory, Provider, Singleton

from flowbp.adapters import Backbone, Tuning, compile_backbone, reference_of, set_attention
from flowbp.component_errors import wrong
from flowbp.config import Component
from flowbp.config.protocols import differing
from flowbp.core import LossShape, Method, SampleClip
from flowbp.evaluation import HeldOut, HeldOutMeasure, Judge, Metric, sampling_facts, spread
from flowbp.evaluation import Sampling as EvaluationSampling
from flowbp.prompts import CachedBackbone, cached
from flowbp.rewards import Reward, Towers, UncalibratedReward
from flowbp.settings.device import chosen_device
from flowbp.settings.loader import resolved_values
from flowbp.settings.metric_factories import PointsByEmbedding, built_judge, built_metric
from flowbp.settings.run_identity import identity
from flowbp.settings.schema import (
    AnchorSettings,
    RunSettings,
    Settings,
    calibration_sampling,
    evaluation_every,
    evaluation_sampling,
)
from flowbp.training import (
    ALONE,
    Anchor,
    Calibration,
    Checkpoints,
    EvaluationLines,
    FurtherEvents,
    HeldOutEvaluation,
    History,
    JsonLines,
    Observer,
    OptimizerRecipe,
    PortionLines,
    ProgressBar,
    PromptSource,
    Ranks,
    SampleGrids,
    Schedule,
    Snapshots,
    TensorBoard,
    Trackio,
    Trainer,
    TrainingStep,
    Wandb,
    calibrated,
    calibration_prompts,
    generator,
)
from flowbp.training.prompts import drawn

_PIXELS = 192
"""About how wide a picture of a sample grid is on disk."""


def _built(component: Component[Any] | None, **offered: Any) -> Any:
    """What a section names, or None where there is no section."""
    return None if component is None else component.build(**offered)


def _say(line: str) -> None:
    print(line, flush=True)


def _skip(line: str) -> None:
    """Another process says it."""


def _judge_of(component: Component[Judge] | None, **offered: Any) -> Judge | None:
    return None if component is None else built_judge(component, **offered)


def tuned_of(
    tuning: Tuning, backbone: Backbone, run: RunSettings, ranks: Ranks = ALONE
) -> Backbone:
    """The backbone with what is trained of it chosen, compiled if the run wants it."""
    tuned = tuning(backbone, generator=generator(run.seed, "tuning"))
    set_attention(tuned, run.attention, agree=ranks.agreed, say=_say if ranks.first else _skip)
    if run.compile:
        compile_backbone(tuned, activations=run.kept_activations)
    return tuned


def _anchor_of(settings: AnchorSettings | None, model: Backbone) -> Anchor | None:
    """The anchor to the model as it is now; None without its section."""
    return None if settings is None else Anchor(settings.strength, reference_of(model))


def _sample_clip_of(factor: float | None) -> SampleClip | None:
    return None if factor is None else SampleClip(factor)


def _held_out_of(settings: Settings) -> tuple[HeldOut, ...]:
    """The held-out prompts; none without an evaluation."""
    return settings.evaluation.prompts.prompts() if settings.evaluation else ()


def _snapshots_of(
    settings: Settings,
    prompts: PromptSource,
    held_out: Sequence[HeldOut],
    sampling: EvaluationSampling | None,
) -> Snapshots | None:
    """The pictures of the sample grids; None without their section."""
    samples, evaluation = settings.samples, settings.evaluation
    if samples is None:
        return None
    if evaluation is not None:
        # The first of the evaluation's prompts under its seed and sampling: the very pictures of
        # the report.
        shown = [prompt.text for prompt in held_out[: samples.count]]
        seed = evaluation.noise_seed
        return Snapshots(shown, samples.every, seed=seed, sampling=sampling)
    stream = iter(prompts.stream(generator(settings.run.seed, "samples")))
    texts = drawn(prompts, stream, samples.count)
    return Snapshots(texts, samples.every, seed=settings.run.seed)


def _shown_facts(
    settings: Settings, model: Backbone, sampling: EvaluationSampling | None
) -> dict[str, str]:
    """How the pictures of sample grids and evaluations are sampled, as texts for their files."""
    seed = settings.evaluation.noise_seed if settings.evaluation else settings.run.seed
    wanted = sampling or calibration_sampling(settings)
    return {**sampling_facts(model, wanted), "seed": str(seed)}


def _observers_of(
    settings: Settings, facts: Callable[[], Mapping[str, str]] = dict
) -> tuple[Observer, ...]:
    """All observers of the steps but the progress."""
    folder, wanted = settings.run.folder, settings.observers
    observers: list[Observer] = []
    if settings.samples is not None:
        scale = max(1, round(_PIXELS / settings.sampling.width))
        observers.append(SampleGrids(folder / "samples", scale=scale, facts=facts))
    if wanted.json_lines:
        observers.append(JsonLines(folder / "metrics.jsonl"))
        observers.append(PortionLines(folder / "portions.jsonl"))
        if evaluation_every(settings) is not None:
            observers.append(EvaluationLines(folder / "evaluations.jsonl"))
    if wanted.tensorboard:
        observers.append(TensorBoard(folder / "tensorboard"))
    configuration = resolved_values(settings)
    if wanted.wandb is not None:
        observers.append(Wandb(wanted.wandb, folder, configuration))
    if wanted.trackio is not None:
        observers.append(Trackio(wanted.trackio, folder, configuration))
    offered: Mapping[str, Any] = {
        "folder": folder,
        "steps": settings.training.steps,
        "configuration": configuration,
    }
    return (*observers, *(_observer_of(other, offered) for other in wanted.others))


def _observer_of(component: Component[Observer], offered: Mapping[str, Any]) -> Observer:
    built = component.build(**offered)
    unlike = differing(built, FurtherEvents)
    if unlike:
        raise wrong("observer", built, unlike)
    return built


def _checkpoints_of(settings: Settings) -> Checkpoints:
    """The checkpoints in the run's folder."""
    folder = settings.run.folder / "checkpoints"
    return Checkpoints(folder, settings.checkpoints, identity=identity(settings))


def _metrics_of(settings: Settings, device: torch.device, towers: Towers) -> dict[str, Metric]:
    """What evaluations inside the run measure, by label."""
    wanted = settings.evaluation.metrics if settings.evaluation else {}
    points = PointsByEmbedding()
    return {
        label: built_metric(label, component, device=device, towers=towers, points=points)
        for label, component in wanted.items()
    }


def _held_out_evaluation_of(
    settings: Settings,
    model: Backbone,
    reward: Reward,
    judge: Judge | None,
    metrics: Mapping[str, Metric],
    held_out: Sequence[HeldOut],
    sampling: EvaluationSampling | None,
    ranks: Ranks,
) -> HeldOutEvaluation | None:
    """The evaluations inside the run; None where it has none."""
    every, evaluation = evaluation_every(settings), settings.evaluation
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
        ranks=ranks if ranks.size > 1 else None,
    )
    return HeldOutEvaluation(measure=measure, every=every, stop=settings.early_stop)


def _calibration_of(settings: Settings) -> Calibration:
    """Where and how a weighted reward is calibrated."""
    return Calibration(
        path=settings.run.folder / "calibration.json",
        seed=settings.run.seed,
        sampling=calibration_sampling(settings),
    )


def _scoring_with(step: TrainingStep, built: object, reward: Reward) -> TrainingStep:
    """The step with the reward as it was calibrated."""
    # A step of one's own keeps its own reward.
    return attrs.evolve(step, reward=reward) if step.reward is built is not reward else step


def _joined(
    progress: Observer, history: Observer, observers: Sequence[Observer]
) -> tuple[Observer, ...]:
    """All observers, in the order in which they are called."""
    return (progress, history, *observers)


class RunContainer(containers.DeclarativeContainer):
    """Everything that a run needs, each part built once and when it is first asked for.

    Any provider can be overridden before the run: ``container.reward.override(...)``.
    """

    settings: Dependency[Settings] = Dependency(instance_of=Settings)
    # The processes that train together.
    ranks: Dependency[Ranks] = Dependency(instance_of=Ranks, default=ALONE)
    device: Provider[torch.device] = Singleton(chosen_device, settings.provided.run.device)

    backbone: Provider[Backbone] = Singleton(_built, settings.provided.backbone, device=device)
    tuning: Provider[Tuning] = Called(attrgetter("tuning"), settings)
    # What is trained of it; an adapter is attached in place.
    tuned: Provider[Backbone] = Singleton(tuned_of, tuning, backbone, settings.provided.run, ranks)
    # The backbone as the run uses it: every prompt is encoded once.
    model: Provider[CachedBackbone] = Singleton(
        cached,
        tuned,
        settings.provided.embeddings.folder,
        batch=settings.provided.embeddings.batch,
    )
    # What a reward and a judge read alike is loaded once.
    towers: Provider[Towers] = Singleton(Towers)
    reward: Provider[Reward | UncalibratedReward] = Singleton(
        _built, settings.provided.reward, device=device, towers=towers
    )
    judge: Provider[Judge | None] = Singleton(
        _judge_of, settings.provided.judge, device=device, towers=towers
    )

    prompts: Provider[PromptSource] = Called(attrgetter("prompts"), settings)
    held_out: Provider[tuple[HeldOut, ...]] = Singleton(_held_out_of, settings)

    calibration: Provider[Calibration] = Singleton(_calibration_of, settings)
    calibration_prompts: Provider[Sequence[str]] = Called(
        calibration_prompts, reward, prompts, settings.provided.run.seed
    )
    # The reward as the run uses it. The first call measures what is not on file, which takes a
    # folder that the run has claimed, and the base model.
    calibrated: Provider[Reward] = Singleton(
        calibrated, reward, model, prompts, calibration, ranks=ranks
    )

    method: Provider[Method] = Called(attrgetter("method"), settings)
    loss: Provider[LossShape] = Called(attrgetter("loss"), settings)
    optimizer: Provider[OptimizerRecipe] = Called(attrgetter("optimizer"), settings)
    schedule: Provider[Schedule] = Called(attrgetter("schedule"), settings)
    evaluation_sampling: Provider[EvaluationSampling | None] = Singleton(
        evaluation_sampling, settings
    )

    snapshots: Provider[Snapshots | None] = Singleton(
        _snapshots_of, settings, prompts, held_out, evaluation_sampling
    )
    # What evaluations inside the run score besides the reward and the judge.
    metrics: Provider[Mapping[str, Metric]] = Singleton(_metrics_of, settings, device, towers)
    held_out_evaluation: Provider[HeldOutEvaluation | None] = Singleton(
        _held_out_evaluation_of,
        settings,
        model,
        calibrated,
        judge,
        metrics,
        held_out,
        evaluation_sampling,
        ranks,
    )
    checkpoints: Singleton[Checkpoints] = Singleton(_checkpoints_of, settings)
    history: Provider[History] = Singleton(History)
    # How pictures are sampled, for their files; the model is asked when there are pictures.
    shown_facts: Provider[Mapping[str, str]] = Singleton(
        _shown_facts, settings, tuned, evaluation_sampling
    )
    observers: Provider[tuple[Observer, ...]] = Singleton(
        _observers_of, settings, shown_facts.provider
    )
    # Apart from the other observers, because a bar appears on the terminal once it is built.
    progress: Provider[ProgressBar] = Factory(
        ProgressBar,
        settings.provided.training.steps,
        stop=settings.provided.early_stop,
        compiled=settings.provided.run.compile,
    )

    # Built before a checkpoint is loaded, so that its reference is the model before training.
    anchor: Provider[Anchor | None] = Singleton(_anchor_of, settings.provided.anchor, model)
    step: Provider[TrainingStep] = Singleton(
        TrainingStep,
        backbone=model,
        reward=reward,
        method=method,
        shape=loss,
        sampling=settings.provided.sampling,
        batching=settings.provided.batching,
        anchor=anchor,
        sample_clip=Singleton(_sample_clip_of, settings.provided.training.sample_clip),
        ranks=ranks,
    )
    trainer: Provider[Trainer] = Factory(
        Trainer,
        step=Singleton(_scoring_with, step, reward, calibrated),
        prompts=prompts,
        optimizer=optimizer,
        steps=settings.provided.training.steps,
        schedule=schedule,
        clip=settings.provided.training.clip,
        averaging=settings.provided.training.averaging,
        seed=settings.provided.run.seed,
        observers=Called(_joined, progress, history, observers),
        snapshots=snapshots,
        checkpoints=checkpoints,
        held_out_evaluation=held_out_evaluation,
    )
