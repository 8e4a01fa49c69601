"""Whether pictures can be drawn and what scores them loaded, found before the model is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch

from flowbp.adapters import Full, Lora
from flowbp.components import ComponentError, blamed, foreign_frames, passes
from flowbp.configuration import Component, Problem
from flowbp.configuration.partial import answers
from flowbp.configuration.tree import Step, path_text
from flowbp.container import RunContainer
from flowbp.run.artefacts import replaced
from flowbp.run.counting import META
from flowbp.run.families import named_model
from flowbp.run.rehearsal import (
    PICTURES,
    made_up_pictures,
    try_judge,
    try_metric,
    try_observer,
    try_reward,
)
from flowbp.run.rehearsal_saving import rehearse_optimizer
from flowbp.run.sizing import undrawable
from flowbp.settings import PointsByEmbedding, Settings, built_metric
from flowbp.settings.checks import Check
from flowbp.settings.intervals import Found
from flowbp.settings.needs import readings, reads, unmet
from flowbp.training.prompts import drawn

_FAULTS = (OSError, ValueError, TypeError, ModuleNotFoundError)
_Scorers = Iterator[tuple[tuple[Step, ...], Component[Any]]]


def unready(container: RunContainer) -> list[Problem]:
    """What is wrong with the pictures' size, and with what reward, judge and metrics read.

    None of them is loaded.

    Args:
        container: of the run; what was overridden from Python is not asked.

    Returns:
        All that is wrong, as far as that can be seen.

    Example:
        See `flowbp.run.checking.check`.
    """
    settings, others = container.settings(), set(replaced(container))
    found = [each for path, component in _scorers(container) for each in unmet(component, path)]
    if not {"backbone", "tuned", "model"} & others:
        found += undrawable(settings.backbone, settings.sampling)
    return [Problem(path_text(path), message, "") for path, message in found]


def untried(container: RunContainer) -> list[Problem]:
    """Build and try what scores pictures, observes and optimizes, and says of no file it reads.

    Args:
        container: of the run; what was overridden from Python is not asked.

    Returns:
        What failed, with the frames of its own code.

    Example:
        See `flowbp.run.checking.check`.
    """
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
            shared = {"device": device, "towers": container.towers()}
            metric = built_metric(label, component, points=PointsByEmbedding(), **shared)
            some = held_out[:PICTURES]
            try_metric(label, metric, images[: len(some)], some)

    found = [*attempted(("prompts",), draw)]
    for path, component in _scorers(container):
        if texts and not reads(component):
            found += attempted(path, partial(score, path, component))
    for number, other in enumerate(settings.observers.others):
        steps = settings.training.steps
        found += attempted(("observers", "others", number), partial(try_observer, other, steps))
    parameters = {"weight": torch.nn.Parameter(torch.zeros(8, 8))}
    trying = partial(rehearse_optimizer, settings.optimizer, parameters)
    return [*found, *attempted(("optimizer",), trying)]


def attempted(path: tuple[Step, ...], act: Callable[[], object]) -> Iterator[Problem]:
    """Do something that calls code of others, and make a problem of what it raises.

    Args:
        path: of what is tried.
        act: tries it.

    Yields:
        The problem, if there is one.

    Raises:
        Exception: an interrupt, or a fault of the library's own.

    Example:
        >>> [str(each) for each in attempted(("reward",), lambda: None)]
        []
    """
    try:
        act()
    except BaseException as error:
        known = isinstance(error, ComponentError | ValueError | TypeError | OSError | ImportError)
        named = error if isinstance(error, ComponentError) else blamed(error)
        if not known and (passes(error) or named is None):
            raise
        lines = [str(named or error), *getattr(error, "__notes__", ()), *foreign_frames(error)]
        yield Problem(path_text(path), "\n  ".join(lines), "")


def read_from(container: RunContainer) -> list[str]:
    """From where they are read, how large that is and whether it is here, as lines.

    Args:
        container: of the run.

    Returns:
        Lines; none of a component that does not say.

    Example:
        See `flowbp.run.checking.check`.
    """
    return [
        f"  {path_text(path)} reads {place}"
        for path, component in _scorers(container)
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


def _scorers(container: RunContainer) -> _Scorers:
    others = set(replaced(container))
    for provider, scorers in _SCORERS.items():
        if provider not in others:
            yield from scorers(container.settings())


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
    yield from answers(lambda known: undrawable(known.backbone, known.sampling), settings)
    if isinstance(settings.tuning, Full | Lora):
        try:
            settings.tuning(sketch, generator=torch.Generator())
        except _FAULTS as error:
            yield ("tuning",), str(error)


AHEAD: tuple[Check, ...] = (
    *(partial(_unmet, scorers) for scorers in _SCORERS.values()),
    _of_model,
)
"""The checks of `unready` and of what is trained, for `flowbp.settings.load`."""
