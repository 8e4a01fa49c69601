"""Whether the pictures can be drawn and the metrics loaded, found before any picture is made."""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

from flowbp.components import is_ours
from flowbp.configuration import Component, ConfigurationError, Problem
from flowbp.configuration.tree import path_text
from flowbp.evaluate.container import EvaluationContainer
from flowbp.evaluate.models import check_applicable, unloadable
from flowbp.evaluate.schema import EvaluateSettings
from flowbp.run.counting import META
from flowbp.run.families import named_model
from flowbp.run.readiness import attempted
from flowbp.run.rehearsal import made_up_pictures, try_backbone, try_metric
from flowbp.run.sizing import undrawable
from flowbp.settings.checks import Check
from flowbp.settings.fitting import unfit
from flowbp.settings.intervals import Found
from flowbp.settings.needs import reads, unmet


def refuse_unready(container: EvaluationContainer, *, tried: bool = False) -> None:
    """Check the pictures' size, and every metric's packages, files and whether it can judge.

    No weights are loaded, but for those of a backbone of others where it is tried.

    Files are looked for where they are named, in the hub's cache or on the hub, and must be whole
    as far as their tables of contents tell; one whose hash is known is read to its end.

    Args:
        container: of the evaluation; a backbone that was overridden is not asked. If a metric's
            failure is only reported, so is what is found of it.
        tried: whether a metric that says of nothing that it reads it is built, and judges two
            made-up pictures, and a backbone of others is built, and draws one.

    Raises:
        ConfigurationError: all that is wrong.

    Example:
        >>> from flowbp.evaluate.loading import load
        >>> typed = ["evaluation.folder=evaluations/new", "backbone.name=shapes",
        ...          "prompts={name: shapes, count: 12}", "metrics.likeness.name=shapes",
        ...          "sampling={steps: 4, height: 64, width: 64}"]
        >>> refuse_unready(EvaluationContainer(settings=load(typed).settings))
    """
    settings = container.settings()
    prompts, found = settings.prompts.prompts(), []
    images = made_up_pictures(settings.sampling, container.device())

    def judge(label: str, metric: Component[Any]) -> None:
        some = prompts[: len(images)]
        try_metric(label, container.metric(label, metric), images[: len(some)], some)

    for label, metric in settings.metrics.items():
        said = _of_metric(label, metric, settings)
        problems = [Problem(path_text(path), message, "") for path, message in said]
        if tried and not problems and not reads(metric):
            problems += attempted(("metrics", label), partial(judge, label, metric))
        found += problems
    refused = [] if settings.evaluation.on_failure == "report" else list(found)
    if not (container.backbone.overridden or container.model.overridden):
        sides = undrawable(settings.backbone, settings.sampling)
        sizes = [Problem(path_text(path), message, "") for path, message in sides]
        # A hub out of reach is reported already.
        unread = any(problem.path == "backbone" for problem in sizes)
        refused += sizes if unread else [*sizes, *_misfits(settings)]
        refused += _of_backbone(container) if tried else unloadable(settings)
    if refused:
        raise ConfigurationError(refused)
    for each in found:
        print(f"{each}; it will be reported as failed", file=sys.stderr, flush=True)


def _of_metric(label: str, metric: Component[Any], settings: EvaluateSettings) -> Found:
    yield from unmet(metric, ("metrics", label))
    wrong = unfit(metric, settings.prompts.prompts(), settings.evaluation.seeds)
    if wrong:
        yield ("metrics", label), wrong


def _of_metrics_that_stop(settings: EvaluateSettings) -> Found:
    if settings.evaluation.on_failure != "report":
        for label, metric in settings.metrics.items():
            yield from _of_metric(label, metric, settings)


def _of_pictures(settings: EvaluateSettings) -> Found:
    return undrawable(settings.backbone, settings.sampling)


AHEAD: tuple[Check, ...] = (_of_metrics_that_stop, _of_pictures)
"""The checks of `refuse_unready`, for `flowbp.evaluate.loading.load`."""


def _of_backbone(container: EvaluationContainer) -> list[Problem]:
    """What is wrong with the backbone; one of others is built, and draws a picture in one step."""
    settings, built = container.settings(), []

    def draw() -> None:
        built.append(container.backbone())
        if not is_ours(built[0]):
            try_backbone(built[0], settings.sampling, "a circle")

    if named_model(settings.backbone) is not None:
        return unloadable(settings)
    problems = list(attempted(("backbone",), draw))
    return [*problems, *unloadable(settings, *built)]


def _misfits(settings: EvaluateSettings) -> list[Problem]:
    """What is wrong with the files of the backbone and of its models; no weights are read."""
    if named_model(settings.backbone) is None:
        return []
    try:
        backbone = settings.backbone.build(device=META)
    except (OSError, ValueError, TypeError, ImportError) as error:
        return [Problem("backbone", str(error), "")]
    found = []
    for label, model in settings.models.items():
        try:
            check_applicable(backbone, model)
        except (OSError, ValueError, TypeError, ImportError) as error:
            found.append(Problem(path_text(("models", label, "checkpoint")), str(error), ""))
    return found
