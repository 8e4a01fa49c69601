"""What only several sections of a run together can get wrong, found before a model is loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from flowbp.config.tree import Step
from flowbp.settings.device import fault_of_device
from flowbp.settings.folder import fault_of_folder
from flowbp.settings.metrics import distance_metric, diversity_metric, pixel_distance_metric
from flowbp.settings.rewards import faults, weighted_reward
from flowbp.settings.sampling import drawn_plan, evaluation_sampling, interval
from flowbp.settings.schema import Settings

Found = Iterator[tuple[tuple[Step, ...], str]]
"""Where a problem is, and what it is."""

Check = Callable[[Any], Found]
"""Finds what sections get wrong together; what it asks for is sound, see `answers`."""

_START_SHARE = 0.5
"""The largest part of a run's average that its starting weights may make up."""

# By the first part of a name in evaluations.jsonl.
_TAKEN = ("step", "reward", "accuracy", "parts")
# Untyped, because the registry of metrics holds those of picture sets as well.
_OF_SEVERAL: Any = diversity_metric
_DISTANCES: tuple[Any, ...] = (distance_metric, pixel_distance_metric)


def checks_of_run(*, resume: bool = False) -> tuple[Check, ...]:
    """The checks of a run: each asks for few keys, so that no mistake elsewhere silences it."""
    return (
        partial(_folder, resume=resume),
        _device,
        _reward,
        _method,
        _schedule,
        _averaging,
        _judge,
        _evaluation_sampling,
        _samples,
        _interval_missing,
        _evaluation_count,
        _metric_labels,
        _early_stop,
        _early_stop_metric,
        _early_stop_steps,
    )


def _folder(settings: Settings, *, resume: bool) -> Found:
    taken = (
        ", and nothing saved is ever overwritten; name another, such as {free}, or add --resume to "
        "go on with the run that is there"
    )
    return fault_of_folder("run", settings.run.folder, taken=taken, resume=resume)


def _device(settings: Settings) -> Found:
    return fault_of_device("run", settings.run.device)


def _reward(settings: Settings) -> Found:
    reward = settings.reward
    if reward.target is weighted_reward:
        for path, message in faults(**reward.arguments):
            yield ("reward", *path), message


def _method(settings: Settings) -> Found:
    # Of any seed, so that a wrong one hides nothing.
    try:
        drawn_plan(settings, 0)
    except (ValueError, TypeError) as error:
        yield ("method",), str(error)


def _schedule(settings: Settings) -> Found:
    try:
        settings.schedule.factor(0, settings.training.steps)
    except ValueError as error:
        yield ("schedule",), str(error)


def _averaging(settings: Settings) -> Found:
    averaging, steps = settings.training.averaging, settings.training.steps
    share = averaging.start_share(steps) if averaging else 0.0
    if averaging and share > _START_SHARE:
        yield (
            ("training", "averaging"),
            f"has decay {averaging.decay:g}, and after {steps} steps the starting weights would "
            f"still make up {share:.0%} of what is saved; write training.averaging.warmup=true, "
            "a lower decay, or training.averaging=null",
        )


def _judge(settings: Settings) -> Found:
    if settings.judge is not None and settings.evaluation is None:
        yield (
            ("judge",),
            f"is {settings.judge.name!r}, and without an `evaluation` nothing is judged; "
            "write that section or judge=null",
        )


def _evaluation_sampling(settings: Settings) -> Found:
    try:
        evaluation_sampling(settings)
    except ValueError as error:
        yield ("evaluation",), str(error)


def _samples(settings: Settings) -> Found:
    if settings.samples is None or settings.evaluation is None:
        return
    there, count = len(settings.evaluation.prompts.prompts()), settings.samples.count
    if count > there:
        yield (
            ("samples", "count"),
            f"must be in [1, {there}], the number of held-out prompts, got {count}",
        )


def _interval_missing(settings: Settings) -> Found:
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


def _evaluation_count(settings: Settings) -> Found:
    evaluation = settings.evaluation
    if evaluation is None or evaluation.count is None:
        return
    there = len(evaluation.prompts.prompts())
    if evaluation.count > there:
        yield (
            ("evaluation", "count"),
            f"must be in [1, {there}], the number of held-out prompts, got {evaluation.count}",
        )


def _metric_labels(settings: Settings) -> Found:
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
                "is the name of a metric that every evaluation has; give another label, such as "
                f"my_{label}",
            )


def _early_stop(settings: Settings) -> Found:
    if settings.early_stop is not None and settings.evaluation is None:
        yield (
            ("early_stop",),
            f"watches {settings.early_stop.metric!r}, but without an `evaluation` nothing is "
            "measured; write that section or early_stop=null",
        )


def _early_stop_metric(settings: Settings) -> Found:
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
            f"is {stop.metric!r}, the distance from the model before training, where higher is "
            "not better; name a metric that should rise",
        )


def _early_stop_steps(settings: Settings) -> Found:
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
