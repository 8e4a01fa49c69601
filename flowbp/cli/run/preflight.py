"""All checks of a run before its model is loaded, and `--check`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch

from flowbp.adapters import Backbone, Full, Lora
from flowbp.cli.run.folder import replaced_providers
from flowbp.cli.run.overview import overview
from flowbp.cli.run.results import guidance_scales
from flowbp.cli.run.resume import resumption
from flowbp.cli.trial_calls import (
    PICTURES,
    as_problem_of,
    made_up_pictures,
    problems_of_call,
    try_backbone,
    try_judge,
    try_metric,
    try_observer,
    try_optimizer,
    try_reward,
)
from flowbp.cli.unloaded_model import META, named_model, picture_size_problems, warn_about_guidance
from flowbp.component_errors import is_ours
from flowbp.config import Component, ConfigurationError, Problem
from flowbp.config.arguments import answers
from flowbp.config.tree import Step, path_text
from flowbp.settings import PointsByEmbedding, RunContainer, Settings, built_metric
from flowbp.settings.component_needs import readings, reads, unmet
from flowbp.settings.preflight import Check, Found
from flowbp.training.prompts import drawn

_FAULTS = (OSError, ValueError, TypeError, ModuleNotFoundError)
_Scorers = Iterator[tuple[tuple[Step, ...], Component[Any]]]


def unmet_needs(settings: Settings, replaced: Sequence[str]) -> list[Problem]:
    """What is wrong with the pictures' size, and with what reward, judge and metrics read."""
    scorers = _scorers(settings, replaced)
    found = [each for path, component in scorers for each in unmet(component, path)]
    if not {"backbone", "tuned", "model"} & set(replaced):
        found += picture_size_problems(settings.backbone, settings.sampling)
    return [Problem(path_text(path), message, "") for path, message in found]


def failed_trials(container: RunContainer) -> list[Problem]:
    """Build and try what scores pictures, observes and optimizes, and says of no file it reads."""
    settings, device = container.settings(), container.device()
    images, held_out = made_up_pictures(settings.sampling, device), container.held_out()
    texts: list[str] = []

    def draw() -> None:
        stream = iter(settings.prompts.stream(torch.Generator().manual_seed(0)))
        texts.extend(drawn(settings.prompts, stream, PICTURES))

    def score(path: tuple[Step, ...], component: Component[Any]) -> None:
        if path == ("reward",):
            try_reward(container.reward(), images, texts)
        elif path == ("judge",):
            shown = [prompt.text for prompt in held_out[:PICTURES]]
            try_judge(container.judge(), images[: len(shown)], shown)
        else:
            label = str(path[-1])
            metric = built_metric(
                label,
                component,
                points=PointsByEmbedding(),
                device=device,
                towers=container.towers(),
            )
            some = held_out[:PICTURES]
            try_metric(label, metric, images[: len(some)], some)

    found = [*problems_of_call(("prompts",), draw)]
    for path, component in _scorers(settings, replaced_providers(container)):
        if texts and not reads(component):
            found += problems_of_call(path, partial(score, path, component))
    for number, other in enumerate(settings.observers.others):
        steps = settings.training.steps
        found += problems_of_call(
            ("observers", "others", number), partial(try_observer, other, steps)
        )
    parameters = {"weight": torch.nn.Parameter(torch.zeros(8, 8))}
    trying = partial(try_optimizer, settings.optimizer, parameters)
    return [*found, *problems_of_call(("optimizer",), trying)]


def places_read(settings: Settings, replaced: Sequence[str]) -> list[str]:
    """From where they are read, how large that is and whether it is here, as lines."""
    return [
        f"  {path_text(path)} reads {place}"
        for path, component in _scorers(settings, replaced)
        for place in readings(component)
    ]


def _of_reward(settings: Settings) -> _Scorers:
    yield ("reward",), settings.reward


def _of_judge(settings: Settings) -> _Scorers:
    if settings.judge is not None:
        yield ("judge",), settings.judge


def _of_metrics(settings: Settings) -> _Scorers:
    if settings.evaluation is not None:
        for label, metric in settings.evaluation.metrics.items():
            yield ("evaluation", "metrics", label), metric


# By the provider that would build them.
_SCORERS: Mapping[str, Callable[[Settings], _Scorers]] = {
    "reward": _of_reward,
    "judge": _of_judge,
    "metrics": _of_metrics,
}


def _scorers(settings: Settings, replaced: Sequence[str]) -> _Scorers:
    for provider, scorers in _SCORERS.items():
        if provider not in replaced:
            yield from scorers(settings)


def _unmet(scorers: Callable[[Settings], _Scorers], settings: Settings) -> Found:
    for path, component in scorers(settings):
        yield from unmet(component, path)


def _of_model(settings: Settings) -> Found:
    if named_model(settings.backbone) is None:
        return
    # A hub out of reach is asked for half a minute, so once is enough.
    try:
        sketch: Any = settings.backbone.build(device=META)
    except _FAULTS as error:
        yield ("backbone",), str(error)
        return
    yield from answers(
        lambda known: picture_size_problems(known.backbone, known.sampling), settings
    )
    if isinstance(settings.tuning, Full | Lora):
        try:
            settings.tuning(sketch, generator=torch.Generator())
        except _FAULTS as error:
            yield ("tuning",), str(error)


AHEAD: tuple[Check, ...] = (
    *(partial(_unmet, scorers) for scorers in _SCORERS.values()),
    _of_model,
)
"""The checks of `unmet_needs` and of what is trained, for `flowbp.settings.load`."""


def check(container: RunContainer, *, resume: bool = False) -> None:
    """Print what a run would do, and do nothing of it."""
    settings, replaced = container.settings(), replaced_providers(container)
    refuse_processes(container.shard().world_size)
    notes = resumption(settings, container.checkpoints(), replaced).notes if resume else ()
    problems = [*unmet_needs(settings, replaced), *failed_trials(container)]
    trained = counted_parameters(container, problems)
    named = named_model(settings.backbone)
    if named is None and not container.backbone.overridden:
        failed = list(problems_of_call(("backbone",), lambda: _try_backbone(container)))
        if failed:
            raise ConfigurationError(failed)
    print(overview(settings, trained, replaced=replaced))
    if not {"backbone", "tuned"} & set(replaced):
        warn_about_guidance(named, guidance_scales(settings))
    print(*places_read(settings, replaced), *notes, "checked; nothing was run", sep="\n")


def _try_backbone(container: RunContainer) -> None:
    if not is_ours(container.tuned()):
        try_backbone(container.tuned(), container.settings().sampling, "a circle")


def counted_parameters(container: RunContainer, found: Sequence[Problem]) -> int:
    """How many parameters would be trained; raises all that is wrong, with what was found."""
    # A backbone that is at fault is not asked again.
    if any(problem.path == "backbone" for problem in found):
        raise ConfigurationError(found)
    try:
        with as_problem_of("backbone"):
            backbone = backbone_without_weights(container)
        with as_problem_of("tuning"):
            trained = count_trained(container, backbone)
    except ConfigurationError as error:
        raise ConfigurationError([*error.problems, *found]) from error
    if found:
        raise ConfigurationError(found)
    return trained


def backbone_without_weights(container: RunContainer) -> Any:
    """The backbone on torch's meta device if it is of a known family, else as it is loaded."""
    component = container.settings().backbone
    replaced = container.backbone.overridden or container.tuned.overridden
    # What another tuning needs of a backbone is not known here.
    known = not replaced and isinstance(container.tuning(), Full | Lora)
    if known and named_model(component) is not None:
        return component.build(device=META)
    return container.backbone()


def count_trained(container: RunContainer, backbone: Any) -> int:
    """Count the parameters that training would change; a backbone without weights is tuned."""
    if getattr(backbone, "device", None) == META:
        return trained_parameters(container.tuning()(backbone, generator=torch.Generator()))
    return trained_parameters(container.tuned())


def trained_parameters(backbone: Backbone) -> int:
    """Count the parameters that training changes, of a backbone that is there."""
    return sum(parameter.numel() for parameter in backbone.trainable().values())


def refuse_processes(processes: int) -> None:
    """Refuse several processes, which would train as many models."""
    if processes > 1:
        message = (
            f"would train {processes} models, as WORLD_SIZE is {processes} in the environment, and "
            "gradients are not shared between processes yet; unset RANK and WORLD_SIZE"
        )
        raise ConfigurationError([Problem("run", message, "")])
