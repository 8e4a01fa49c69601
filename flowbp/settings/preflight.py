"""Every check of a run that calls none of its components, made before a model is loaded."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from flowbp.adapters import Full, Lora
from flowbp.adapters.quantization import Quantization, check_quantization
from flowbp.adapters.tuning import why_not_full
from flowbp.config import Component
from flowbp.config.partial import run_check
from flowbp.config.tree import Step
from flowbp.evaluation.metrics import PixelDistance
from flowbp.prompts.sources import TableSource
from flowbp.settings.component_needs import Found, missing_needs, unsuitable
from flowbp.settings.device import Gpus, fault_of_attention, fault_of_device, fault_of_processes
from flowbp.settings.folder import FINISHED, fault_of_folder
from flowbp.settings.metric_factories import distance_metric, diversity_metric
from flowbp.settings.schema import (
    Settings,
    evaluation_every,
    evaluation_sampling,
    example_surrogate,
)
from flowbp.settings.unloaded_model import (
    META,
    kernel_problems,
    named_model,
    picture_size_problems,
)
from flowbp.settings.weighted_reward import faults, weighted_reward
from flowbp.training import Constant, Launch, OptimizerClass
from flowbp.training.batching import AUTO
from flowbp.training.trackers import tracker_faults

Check = Callable[[Any], Found]
"""Finds what is wrong. It may ask settings for a key that is itself wrong, and then ends, see
`flowbp.config.arguments.run_check`; so it asks for few."""

Scorers = Iterator[tuple[tuple[Step, ...], Component[Any]]]
"""Components that score pictures, with their keys."""

_FACTORS = 64
"""About how many factors of a schedule are looked at."""

_EXAMPLES = 16
"""Draws of a method that are looked at."""

_START_SHARE = 0.5
"""The largest part of a run's average that its starting weights may make up."""

# By the first part of a name in evaluations.jsonl.
_TAKEN = ("step", "reward", "accuracy", "parts")
# Untyped, because the registry of metrics holds those of picture sets as well.
_OF_SEVERAL: Any = diversity_metric
_DISTANCES: tuple[Any, ...] = (distance_metric, PixelDistance)


def section_checks(
    *, resume: bool = False, writes: bool = True, gpus: Gpus | None = None
) -> tuple[Check, ...]:
    """What only several sections together, or the machine or `gpus` in its place, get wrong.

    One that `writes` nothing leaves the folder to the process that does.
    """
    size = gpus.count if gpus else Launch.of().size
    return (
        *([partial(_folder, resume=resume)] if writes else []),
        partial(_device, gpus=gpus),
        *([] if gpus else [_attention, _processes]),
        partial(_batch, size=size),
        partial(_shards, size=size),
        faults_of_sum,
        # Of any seed, so that a wrong one hides nothing.
        partial(_tried, key="method", act=lambda known: example_surrogate(known, 0)),
        _nothing_extrapolated,
        partial(_tried, key="schedule", act=_factors),
        _rateless,
        _averaging,
        _averaging_twice,
        *([_trackers] if writes else []),
        _judge_alone,
        partial(_tried, key="evaluation", act=evaluation_sampling),
        partial(_held_out_count, section="samples"),
        _no_evaluations_inside,
        partial(_held_out_count, section="evaluation"),
        _metric_labels,
        _early_stop_alone,
        _early_stop_metric,
        _early_stop_steps,
    )


def reading_checks(replaced: Collection[str] = (), device: str | None = None) -> tuple[Check, ...]:
    """What is wrong with files, the hub and packages, but for the providers that are replaced.

    On the run's device, unless another is given.
    """
    model: list[Check] = []
    if not {"backbone", "tuned", "model"} & set(replaced):
        model = [partial(_kernel, device=device), partial(_model, tuned="tuning" not in replaced)]
    prompts = {"prompts", "held_out"} & set(replaced)
    return (
        *on_scorers(lambda _, path, component: missing_needs(component, path), replaced),
        *([] if prompts else on_scorers(_unsuitable, replaced)),
        *model,
    )


def on_scorers(
    find: Callable[[Settings, tuple[Step, ...], Component[Any]], Found],
    replaced: Collection[str] = (),
) -> tuple[Check, ...]:
    """A check of each kind of component that scores pictures, but for those that are replaced."""

    def check(settings: Settings, scorers: Callable[[Settings], Scorers]) -> Found:
        for path, component in scorers(settings):
            yield from find(settings, path, component)

    return tuple(
        partial(check, scorers=scorers)
        for provider, scorers in SCORERS.items()
        if provider not in replaced
    )


def _reward_of(settings: Settings) -> Scorers:
    yield ("reward",), settings.reward


def _judge_of(settings: Settings) -> Scorers:
    if settings.judge is not None:
        yield ("judge",), settings.judge


def _metrics_of(settings: Settings) -> Scorers:
    if settings.evaluation is not None:
        for label, metric in settings.evaluation.metrics.items():
            yield ("evaluation", "metrics", label), metric


def _unsuitable(settings: Settings, path: tuple[Step, ...], component: Component[Any]) -> Found:
    """Which prompts of a run a component cannot score, as far as it says so."""
    # Of it, `_metric_labels` reports.
    if component.target is _OF_SEVERAL:
        return
    lists = [settings.evaluation.prompts.prompts()] if settings.evaluation is not None else []
    if path == ("reward",) and isinstance(settings.prompts, TableSource):
        lists.insert(0, settings.prompts.table.prompts)
    for prompts in lists:
        found = list(unsuitable(component, prompts, [0], path))
        if found:
            yield from found
            return


SCORERS: Mapping[str, Callable[[Settings], Scorers]] = {
    "reward": _reward_of,
    "judge": _judge_of,
    "metrics": _metrics_of,
}
"""What scores pictures, by the provider that builds it."""


def _model(settings: Settings, *, tuned: bool = True) -> Found:
    """What the files of a known model say of the pictures' size, of loading and of tuning."""
    named = named_model(settings.backbone)
    if named is None:
        return
    form = named.quantization
    lacking = list(_few_bits(form))
    yield from lacking
    sizes = list(
        run_check(lambda known: picture_size_problems(known.backbone, known.sampling), settings)
    )
    yield from sizes
    if tuned and form is not None and isinstance(settings.tuning, Full):
        yield ("tuning",), why_not_full(form)
        tuned = False
    # A hub out of reach is asked for half a minute, so once is enough.
    if lacking or any(path == ("backbone",) for path, _ in sizes):
        return
    path: tuple[Step, ...] = ("backbone",)
    try:
        sketch = settings.backbone.build(device=META)
        path = ("tuning",)
        # What a tuning of others needs of a model is not known.
        if tuned and isinstance(settings.tuning, Full | Lora):
            settings.tuning(sketch, generator=torch.Generator())
    except (OSError, ValueError, TypeError, ImportError) as error:
        yield path, str(error)


def _kernel(settings: Settings, *, device: str | None) -> Found:
    run = settings.run
    return kernel_problems(settings.backbone, "run", run.attention, device or run.device)


def _few_bits(form: Quantization | None) -> Found:
    """What a quantisation lacks; a form that there is not is refused where it is read."""
    try:
        check_quantization(form)
    except ValueError as error:
        yield ("backbone", "quantization"), str(error).removeprefix("`quantization` ")


def _folder(settings: Settings, *, resume: bool) -> Found:
    folder = settings.run.folder
    taken = ", and nothing saved is ever overwritten; name another, such as {free}"
    if _is_finished(folder):
        taken += (
            "; the run that is there is finished, and --resume only adds to training.steps, under "
            "a constant schedule"
        )
    else:
        taken += ", or add --resume to continue the run that is there"
    return fault_of_folder("run", folder, taken=taken, resume=resume)


def _is_finished(folder: Path) -> bool:
    try:
        return (folder / FINISHED).is_file()
    except OSError:
        # What is wrong with the folder is reported beside it.
        return False


def _device(settings: Settings, *, gpus: Gpus | None) -> Found:
    find = gpus.fault_of if gpus else fault_of_device
    return find("run", settings.run.device)


def _attention(settings: Settings) -> Found:
    return fault_of_attention("run", settings.run.attention, settings.run.device)


def _processes(settings: Settings) -> Found:
    return fault_of_processes("run", settings.run.device)


def _batch(settings: Settings, *, size: int) -> Found:
    try:
        settings.batching.total(size)
    except ValueError as error:
        yield ("batching", "global"), str(error).removeprefix("`global` ")


def _shards(settings: Settings, *, size: int) -> Found:
    wish = settings.distributed.shard
    named = named_model(settings.backbone)
    if named is not None and named.quantization and wish not in (AUTO, 1):
        yield (
            ("distributed", "shard"),
            f"is {wish}, and a backbone in {named.quantization} cannot be divided: each process "
            "has a whole one; write auto, or backbone.quantization=null",
        )
        return
    if wish == AUTO or size % wish == 0:
        return
    possible = " or ".join(str(n) for n in range(1, size + 1) if size % n == 0)
    fault = f"must divide the {size} processes of the run, got {wish}; write auto, or {possible}"
    if size == 1:
        fault = f"is {wish}, and there is one process; write auto, or start more with torchrun"
    yield ("distributed", "shard"), fault


def faults_of_sum(settings: Settings) -> Found:
    """What is wrong with a weighted reward, found without building its parts."""
    reward = settings.reward
    if reward.target is weighted_reward:
        for path, message in faults(**reward.arguments):
            yield ("reward", *path), message


def _tried(settings: Settings, *, key: str, act: Callable[[Settings], object]) -> Found:
    try:
        act(settings)
    except (ValueError, TypeError) as error:
        yield (key,), str(error)


def _factors(settings: Settings) -> None:
    """Ask a schedule for some of its factors."""
    steps, rate = settings.training.steps, settings.optimizer.learning_rate
    for step in sorted({*range(0, steps, -(-steps // _FACTORS)), steps - 1}):
        factor = settings.schedule.factor(step, steps, rate)
        if not 0 <= factor < float("inf"):
            raise ValueError(
                f"has the factor {factor} at step {step} of {steps}, and it must be finite and at "
                "least 0; change its keys"
            )


def _nothing_extrapolated(settings: Settings) -> Found:
    """A method that needs every velocity, of which `velocity_every` saves none."""
    sampling = settings.sampling
    if sampling.velocity_every == 1:
        return
    for seed in range(_EXAMPLES):
        try:
            surrogate = example_surrogate(settings, seed)
        except (ValueError, TypeError):
            # That the method does not fit is reported beside this.
            return
        if len(sampling.evaluated_steps(surrogate)) < surrogate.horizon:
            return
    yield (
        ("sampling", "velocity_every"),
        f"is {sampling.velocity_every}, but the method needs the velocity of every step that it "
        "samples, so that none is left to extrapolate; leave it out, or take more steps or fewer "
        "active ones",
    )


def _rateless(settings: Settings) -> Found:
    """A schedule that would change nothing, or what replaces it."""
    optimizer, schedule = settings.optimizer, settings.schedule
    if not isinstance(optimizer, OptimizerClass) or schedule == Constant():
        return
    name = optimizer.target.__name__
    if not optimizer.has_rate:
        yield (
            ("schedule",),
            f"is given, and the optimizer {name} takes no learning rate that it could change; "
            "leave it out, or write schedule={name: constant, warmup: 0}",
        )
    elif optimizer.averages:
        yield (
            ("schedule",),
            f"is given, and {name} is made to need none; leave it out, or write "
            "schedule={name: constant, warmup: 0}; for a warm-up give the optimizer `warmup_steps`",
        )


def _averaging_twice(settings: Settings) -> Found:
    optimizer = settings.optimizer
    if settings.training.averaging is None or not isinstance(optimizer, OptimizerClass):
        return
    if optimizer.averages:
        yield (
            ("training", "averaging"),
            f"averages the parameters, as {optimizer.target.__name__} does itself; write "
            "training.averaging=null, and its own average is sampled, evaluated and saved",
        )


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


def _trackers(settings: Settings) -> Found:
    wanted = settings.observers
    for path, message in tracker_faults(wanted.wandb, wanted.trackio):
        yield ("observers", *path), message


def _judge_alone(settings: Settings) -> Found:
    if settings.judge is not None and settings.evaluation is None:
        yield (
            ("judge",),
            f"is {settings.judge.name!r}, and without an `evaluation` nothing is judged; "
            "write that section or judge=null",
        )


def _held_out_count(settings: Settings, *, section: str) -> Found:
    wanted, evaluation = getattr(settings, section), settings.evaluation
    if wanted is None or evaluation is None or wanted.count is None:
        return
    there = len(evaluation.prompts.prompts())
    if wanted.count > there:
        yield (
            (section, "count"),
            f"must be in [1, {there}], the number of held-out prompts, got {wanted.count}",
        )


def _no_evaluations_inside(settings: Settings) -> Found:
    evaluation = settings.evaluation
    if evaluation is None or evaluation_every(settings) is not None:
        return
    for key in ("count", "metrics"):
        if getattr(evaluation, key):
            yield (
                ("evaluation", key),
                "is for evaluations inside the run, and nothing asks for any; give "
                f"evaluation.every, or leave `{key}` out",
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


def _early_stop_alone(settings: Settings) -> Found:
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
    every = evaluation_every(settings)
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
