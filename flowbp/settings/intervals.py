"""Evaluations inside a run and what may end it: what their keys can get wrong together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from flowbp.configuration.tree import Step
from flowbp.settings.evaluation import EarlyStopSettings, EvaluationSettings
from flowbp.settings.rewards import weighted_reward
from flowbp.settings.schema import Settings
from flowbp.settings.set_metrics import distance_metric, diversity_metric, pixel_distance_metric

Found = Iterator[tuple[tuple[Step, ...], str]]
"""Where a problem is, and what it is."""

_TAKEN = ("reward", "accuracy", "parts")
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


def of_intervals(settings: Settings) -> Found:
    """Find what does not fit together.

    Args:
        settings: of the run.

    Yields:
        Paths and messages.

    Example:
        See `flowbp.settings.load`.
    """
    evaluation, stop = settings.evaluation, settings.early_stop
    if evaluation is not None:
        yield from _of_evaluation(evaluation, interval(settings))
    if stop is None:
        return
    if evaluation is None:
        yield (
            ("early_stop",),
            f"is on {stop.metric!r}, and without an `evaluation` nothing is held out; write that "
            "section or early_stop=null",
        )
        return
    yield from _of_stop(settings, stop, evaluation)


def _of_evaluation(evaluation: EvaluationSettings, every: int | None) -> Found:
    there = len(evaluation.prompts.prompts())
    for key in ("count", "metrics"):
        if every is None and getattr(evaluation, key):
            yield (
                ("evaluation", key),
                "is for evaluations inside the run, and nothing asks for any; give "
                f"evaluation.every, or leave `{key}` out",
            )
    if evaluation.count is not None and evaluation.count > there:
        yield (
            ("evaluation", "count"),
            f"must be in [1, {there}], the number of held-out prompts, got {evaluation.count}",
        )
    for label, metric in evaluation.metrics.items():
        if metric.target is _OF_SEVERAL:
            yield (
                ("evaluation", "metrics", label),
                "needs several pictures of a prompt, and an evaluation inside the run makes one of "
                "each; measure it by flowbp-eval with several evaluation.seeds, on what "
                "checkpoints.every saves, and leave it out here",
            )
        if label.split(".")[0] in _TAKEN:
            yield (
                ("evaluation", "metrics", label),
                "is the name of a figure that every evaluation has; give another label",
            )


def _of_stop(settings: Settings, stop: EarlyStopSettings, evaluation: EvaluationSettings) -> Found:
    every, steps = interval(settings), settings.training.steps
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
    if every is None:
        yield ("early_stop", "every"), "is null, and so is evaluation.every; give one of them"
        return
    if stop.every is not None and stop.every != every:
        yield (
            ("early_stop", "every"),
            f"is {stop.every}, and evaluation.every is {every}; give one of them, or both alike",
        )
    if stop.patience * every >= steps:
        yield (
            ("early_stop", "patience"),
            f"is {stop.patience}, and with an evaluation every {every} steps the run could end "
            f"after step {stop.patience * every} at the earliest, and it has {steps}; lower "
            "`patience` or `every`, or write early_stop=null",
        )
