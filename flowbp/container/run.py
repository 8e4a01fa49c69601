"""The objects of a run, built from its settings; each can be replaced from Python."""

from __future__ import annotations

from typing import Any

from dependency_injector import containers, providers

from flowbp.container import parts
from flowbp.embeddings import cached
from flowbp.prompts import Shard, ShardedPrompts
from flowbp.rewards import Towers
from flowbp.settings import Settings
from flowbp.settings.checks import evaluation_sampling
from flowbp.settings.devices import chosen_device
from flowbp.training import (
    History,
    Progress,
    Trainer,
    TrainingStep,
    calibrated,
    calibration_prompts,
)


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

    backbone: Any = providers.Singleton(parts.built, settings.provided.backbone, device=device)
    tuning: Any = providers.Callable(parts.itself, settings.provided.tuning)
    # What is trained of it; an adapter is attached in place.
    tuned: Any = providers.Singleton(parts.tuned_of, tuning, backbone, settings.provided.run)
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
        parts.scorer, settings.provided.reward, device=device, towers=towers
    )
    judge: Any = providers.Singleton(
        parts.scorer, settings.provided.judge, device=device, towers=towers
    )

    prompts: Any = providers.Callable(parts.itself, settings.provided.prompts)
    shard: Any = providers.Singleton(Shard.from_environment)
    # Samples are of the whole source, so that every process takes the same pictures.
    own_prompts: Any = providers.Singleton(ShardedPrompts, prompts, shard)
    held_out: Any = providers.Singleton(parts.held_out_of, settings)

    calibration: Any = providers.Singleton(parts.calibration_of, settings)
    calibration_prompts: Any = providers.Callable(
        calibration_prompts, reward, prompts, settings.provided.run.seed
    )
    # The reward as the run uses it. The first call measures what is not on file, which takes a
    # folder that the run has claimed, and the base model.
    calibrated: Any = providers.Singleton(calibrated, reward, model, prompts, calibration)

    method: Any = providers.Callable(parts.itself, settings.provided.method)
    loss: Any = providers.Callable(parts.itself, settings.provided.loss)
    optimizer: Any = providers.Callable(parts.itself, settings.provided.optimizer)
    schedule: Any = providers.Callable(parts.itself, settings.provided.schedule)
    evaluation_sampling: Any = providers.Singleton(evaluation_sampling, settings)

    snapshots: Any = providers.Singleton(
        parts.snapshots_of, settings, prompts, held_out, evaluation_sampling
    )
    # What evaluations inside the run score besides the reward and the judge.
    metrics: Any = providers.Singleton(parts.metrics_of, settings, device, towers)
    intervals: Any = providers.Singleton(
        parts.intervals_of,
        settings,
        model,
        calibrated,
        judge,
        metrics,
        held_out,
        evaluation_sampling,
    )
    checkpoints: Any = providers.Singleton(parts.checkpoints_of, settings)
    history: Any = providers.Singleton(History)
    # How pictures are sampled, for their files; the model is asked when there are pictures.
    shown_facts: Any = providers.Singleton(parts.shown_facts, settings, tuned, evaluation_sampling)
    observers: Any = providers.Singleton(parts.observers_of, settings, shown_facts.provider)
    # Apart from the other observers, because a bar appears on the terminal once it is built.
    progress: Any = providers.Factory(
        Progress, settings.provided.training.steps, stop=providers.Callable(parts.rule_of, settings)
    )

    # Built before a checkpoint is loaded, so that its reference is the model before training.
    anchor: Any = providers.Singleton(parts.anchor_of, settings.provided.anchor, model)
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
        step=providers.Singleton(parts.scoring_with, step, reward, calibrated),
        prompts=own_prompts,
        optimizer=optimizer,
        steps=settings.provided.training.steps,
        schedule=schedule,
        clip=settings.provided.training.clip,
        averaging=settings.provided.training.averaging,
        seed=settings.provided.run.seed,
        observers=providers.Callable(parts.joined, progress, history, observers),
        snapshots=snapshots,
        checkpoints=checkpoints,
        intervals=intervals,
    )
