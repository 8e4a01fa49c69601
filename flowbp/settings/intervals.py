"""Evaluations inside a run and what may end it: what their keys can get wrong together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from flowbp.configuration.tree import Step
from flowbp.settings.rewards import weighted_reward
from flowbp.settings.schema import Settings
from flowbp.settings.set_metrics import distance_metric, diversity_metric, pixel_distance_metric

Found = Iterator[tuple[tuple[Step, ...], str]]
"""Where a problem is, and what it is."""

# By the first part of a name in evaluations.jsonl.
_TAKEN = ("step", "reward", "accuracy", "parts")
# Untyped, because the registry of metrics holds those of sets as well.
_OF_SEVERAL: Any = diversity_metric
_DISTANCES: tuple[Any, ...] = (distance_metric, pixel_distance_metric)


def interval(settings: Settings) -> int | None:
    """Optimizer steps from one evaluation inside the run to the next.

    Args:
        settings: of the run.

    Returns:
        The number; None if nothing asks for them.

    Example:
        See `flowbp.container.RunContainer`.
    """
    stop, evaluation = settings.early_stop, settings.evaluation
    every = evaluation.every if evaluation else None
    return every or (stop.every if stop else None)


def _of_inside(settings: Settings) -> Found:
    evaluation = settings.evaluation
    if evaluation is None or interval(settings) is not None:
        return
    for key in ("count", "metrics"):
        if getattr(evaluation, key):
            yield (
                ("evaluation", key),
                "is for evaluations inside the run, and nothing asks for any; give "
                f"evaluation.every, or leave `{key}` out",
            )


def _of_count(settings: Settings) -> Found:
    evaluation = settings.evaluation
    if evaluation is None or evaluation.count is None:
        return
    there = len(evaluation.prompts.prompts())
    if evaluation.count > there:
        yield (
            ("evaluation", "count"),
            f"must be in [1, {there}], the number of held-out prompts, got {evaluation.count}",
        )


def _of_metrics(settings: Settings) -> Found:
    metrics = settings.evaluation.metrics if settings.evaluation else {}
    for label, metric in metrics.items():
        if metric.target is _OF_SEVERAL:
            yield (
                ("evaluation", "metrics", label),
                "needs several pictures of a prompt, and an evaluation inside the run makes one of "
                "each; measure it by flowbp-eval with several evaluation.seeds, on what "
                "checkpoints.every saves, and leave it out here",
            )
        if label.lower() in _TAKEN:
            yield (
                ("evaluation", "metrics", label),
                "is the name of a figure that every evaluation has; give another label, such as "
                f"my_{label}",
            )


def _of_stop(settings: Settings) -> Found:
    if settings.early_stop is not None and settings.evaluation is None:
        yield (
            ("early_stop",),
            f"is on {settings.early_stop.metric!r}, and without an `evaluation` nothing is held "
            "out; write that section or early_stop=null",
        )


def _of_stops_metric(settings: Settings) -> Found:
    stop, evaluation = settings.early_stop, settings.evaluation
    if stop is None or evaluation is None:
        return
    names = ["reward", *(["accuracy"] if settings.judge else [])]
    composed = settings.reward.target is weighted_reward and stop.metric.startswith("parts.")
    # Only a metric itself knows its columns; the first evaluation finds out about those.
    if not (evaluation.metrics or composed or stop.metric in names):
        yield (
            ("early_stop", "metric"),
            f"is {stop.metric!r}, and the evaluation has {', '.join(names)}; name one of these, or "
            "add a `judge` for accuracy, or something to evaluation.metrics",
        )
    measured = evaluation.metrics.get(stop.metric)
    if measured is not None and measured.target in _DISTANCES:
        yield (
            ("early_stop", "metric"),
            f"is {stop.metric!r}, the distance from the model before training, of which more is "
            "not better; name a figure that is to rise",
        )


def _of_stops_steps(settings: Settings) -> Found:
    stop = settings.early_stop
    if stop is None or settings.evaluation is None:
        return
    every = interval(settings)
    if every is None:
        yield ("early_stop", "every"), "is null, and so is evaluation.every; give one of them"
        return
    if stop.every is not None and stop.every != every:
        yield (
            ("early_stop", "every"),
            f"is {stop.every}, and evaluation.every is {every}; give one of them, or both alike",
        )
    steps = settings.training.steps
    if stop.patience * every >= steps:
        yield (
            ("early_stop", "patience"),
            f"is {stop.patience}, and with an evaluation every {every} steps the run could end "
            f"after step {stop.patience * every} at the earliest, and it has {steps}; lower "
            "`patience` or `every`, or write early_stop=null",
        )


CHECKS_OF_INTERVALS = (
    _of_inside,
    _of_count,
    _of_metrics,
    _of_stop,
    _of_stops_metric,
    _of_stops_steps,
)
"""What finds what evaluations inside a run, and what may end it, get wrong with other sections."""
