"""How each part of a run is built from the settings and from other parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import torch

from flowbp.adapters import Backbone, Tuning, compile_backbone, reference_of
from flowbp.configuration import Component
from flowbp.evaluation import HeldOut, HeldOutMeasure, Judge, Metric, sampling_facts, spread
from flowbp.evaluation import Sampling as EvaluationSampling
from flowbp.rewards import Reward, Towers, UncalibratedReward
from flowbp.settings import AnchorSettings, PointsByEmbedding, RunSettings, Settings, identity
from flowbp.settings.checks import calibration_sampling
from flowbp.settings.intervals import interval
from flowbp.settings.metrics import built_metric
from flowbp.training import (
    Anchor,
    Calibration,
    Checkpoints,
    EarlyStop,
    EvaluationLines,
    Intervals,
    JsonLines,
    Observer,
    PortionLines,
    PromptSource,
    SampleGrids,
    Snapshots,
    TensorBoard,
    TrainingStep,
    generator,
)
from flowbp.training.prompts import drawn

_PIXELS = 192
"""About how wide a picture of a sample grid is on disk."""


def built(component: Component[Any] | None, **offered: Any) -> Any:
    """What a section names, or None where there is no section."""
    return None if component is None else component.build(**offered)


def scorer(component: Component[Any] | None, **offered: Any) -> Any:
    """A reward or judge, which must be callable."""
    found = built(component, **offered)
    # A composition that is yet to be calibrated is called only once it is.
    if component is not None and not callable(found) and not isinstance(found, UncalibratedReward):
        raise TypeError(
            f"`name` must make what is called with pictures and prompts, got {component.name!r}, "
            f"which makes a {type(found).__name__} that cannot be called; docs/rewards.md says how "
            "to write one"
        )
    return found


def tuned_of(tuning: Tuning, backbone: Backbone, run: RunSettings) -> Backbone:
    """The backbone with what is trained of it chosen, compiled if the run wants it."""
    tuned = tuning(backbone, generator=generator(run.seed, "tuning"))
    if run.compile:
        compile_backbone(tuned, activations=run.kept_activations)
    return tuned


def itself(value: Any) -> Any:
    """A value that the settings hold already built."""
    return value


def anchor_of(settings: AnchorSettings | None, model: Backbone) -> Anchor | None:
    """The anchor to the model as it is now; None without its section."""
    return None if settings is None else Anchor(settings.strength, reference_of(model))


def held_out_of(settings: Settings) -> tuple[HeldOut, ...]:
    """The held-out prompts; none without an evaluation."""
    return settings.evaluation.prompts.prompts() if settings.evaluation else ()


def snapshots_of(
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


def shown_facts(
    settings: Settings, model: Backbone, sampling: EvaluationSampling | None
) -> dict[str, str]:
    """How the pictures of sample grids and evaluations are sampled, as texts for their files."""
    seed = settings.evaluation.noise_seed if settings.evaluation else settings.run.seed
    wanted = sampling or calibration_sampling(settings)
    return {**sampling_facts(model, wanted), "seed": str(seed)}


def observers_of(
    settings: Settings, facts: Callable[[], Mapping[str, str]] = dict
) -> tuple[Observer, ...]:
    """All that is told of the steps but the progress."""
    folder, wanted = settings.run.folder, settings.observers
    observers: list[Observer] = []
    if settings.samples is not None:
        scale = max(1, round(_PIXELS / settings.sampling.width))
        observers.append(SampleGrids(folder / "samples", scale=scale, facts=facts))
    if wanted.json_lines:
        observers.append(JsonLines(folder / "metrics.jsonl"))
        observers.append(PortionLines(folder / "portions.jsonl"))
        if interval(settings) is not None:
            observers.append(EvaluationLines(folder / "evaluations.jsonl"))
    if wanted.tensorboard:
        observers.append(TensorBoard(folder / "tensorboard"))
    offered: Mapping[str, Any] = {"folder": folder, "steps": settings.training.steps}
    return (*observers, *(other.build(**offered) for other in wanted.others))


def checkpoints_of(settings: Settings) -> Checkpoints:
    """The checkpoints in the run's folder."""
    wanted = settings.checkpoints
    return Checkpoints(
        settings.run.folder / "checkpoints",
        every=wanted.every,
        keep=wanted.keep,
        best=wanted.best,
        identity=identity(settings),
    )


def metrics_of(settings: Settings, device: torch.device, towers: Towers) -> dict[str, Metric]:
    """What evaluations inside the run measure, by label."""
    wanted = settings.evaluation.metrics if settings.evaluation else {}
    points = PointsByEmbedding()
    return {
        label: built_metric(label, component, device=device, towers=towers, points=points)
        for label, component in wanted.items()
    }


def intervals_of(
    settings: Settings,
    model: Backbone,
    reward: Reward,
    judge: Judge | None,
    metrics: Mapping[str, Metric],
    held_out: Sequence[HeldOut],
    sampling: EvaluationSampling | None,
) -> Intervals | None:
    """The evaluations inside the run; None where it has none."""
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
    return Intervals(measure=measure, every=every, stop=rule_of(settings))


def rule_of(settings: Settings) -> EarlyStop | None:
    """When to stop early; None for never."""
    return settings.early_stop.rule if settings.early_stop else None


def calibration_of(settings: Settings) -> Calibration:
    """Where and how a weighted reward is calibrated."""
    return Calibration(
        path=settings.run.folder / "calibration.json",
        seed=settings.run.seed,
        sampling=calibration_sampling(settings),
    )


def scoring_with(step: TrainingStep, built: object, reward: Reward) -> TrainingStep:
    """The step with the reward as it was calibrated."""
    # A step of one's own keeps its own reward.
    return attrs.evolve(step, reward=reward) if step.reward is built is not reward else step


def joined(
    progress: Observer, history: Observer, observers: Sequence[Observer]
) -> tuple[Observer, ...]:
    """All observers, in the order in which they are told."""
    return (progress, history, *observers)
