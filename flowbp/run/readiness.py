"""Whether pictures can be drawn and what scores them loaded, found before the model is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch

from flowbp.adapters import Full, Lora
from flowbp.configuration import Component, Problem
from flowbp.configuration.partial import answers
from flowbp.configuration.tree import Step, path_text
from flowbp.container import RunContainer
from flowbp.run.artefacts import replaced
from flowbp.run.counting import META
from flowbp.run.families import named_model
from flowbp.run.sizing import undrawable
from flowbp.settings import Settings
from flowbp.settings.checks import Check
from flowbp.settings.intervals import Found
from flowbp.settings.needs import readings, unmet

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
    found = [
        each
        for provider, scorers in _SCORERS.items()
        if provider not in others
        for each in _unmet(scorers, settings)
    ]
    if not {"backbone", "tuned", "model"} & others:
        found += undrawable(settings.backbone, settings.sampling)
    return [Problem(path_text(path), message, "") for path, message in found]


def read_from(container: RunContainer) -> list[str]:
    """From where they are read, how large that is and whether it is here, as lines.

    Args:
        container: of the run.

    Returns:
        Lines; none of a component that does not say.

    Example:
        See `flowbp.run.checking.check`.
    """
    settings, others = container.settings(), set(replaced(container))
    return [
        f"  {path_text(path)} reads {place}"
        for provider, scorers in _SCORERS.items()
        if provider not in others
        for path, component in scorers(settings)
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
