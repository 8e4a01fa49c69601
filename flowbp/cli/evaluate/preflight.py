"""From what was typed to checked settings, and all checks before a model is loaded."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import attrs

from flowbp.cli.evaluate.container import EvaluationContainer
from flowbp.cli.evaluate.models import check_applicable, missing_load, model_fault, training_faults
from flowbp.cli.evaluate.settings import EvaluateSettings
from flowbp.cli.trial_calls import made_up_pictures, problems_of_call, try_backbone, try_metric
from flowbp.cli.unloaded_model import META, named_model, picture_size_problems
from flowbp.component_errors import is_ours
from flowbp.config import Component, ConfigurationError, Problem, without_nulls
from flowbp.config.command_line import gathered
from flowbp.config.tree import Step, path_text
from flowbp.evaluation.scores_files import TOTAL
from flowbp.settings import Loaded, weighted_reward
from flowbp.settings.component_needs import reads, unfit, unmet
from flowbp.settings.device import fault_of_device
from flowbp.settings.folder import fault_of_folder
from flowbp.settings.loader import checked
from flowbp.settings.preflight import Check, Found
from flowbp.settings.rewards import faults


def load(
    arguments: Sequence[str], *, resume: bool = False, ahead: Sequence[Check] = ()
) -> Loaded[EvaluateSettings]:
    """Read YAML files and overrides, and check all that can be checked without a model."""
    typed = gathered(arguments)
    tree = without_nulls(without_nulls(typed.tree, "metrics"), "models")
    checks = (
        partial(_of_folder, resume=resume),
        _of_device,
        _of_checkpoints,
        training_faults,
        _of_rewards,
        _of_kinds,
    )
    return checked(EvaluateSettings, attrs.evolve(typed, tree=tree), checks, ahead)


def _of_checkpoints(settings: EvaluateSettings) -> Found:
    for label, model in settings.models.items():
        found = model_fault(model)
        if found is not None:
            yield ("models", label, found[0]), found[1]


def _of_kinds(settings: EvaluateSettings) -> Found:
    if any(prompt.kind == TOTAL for prompt in settings.prompts.prompts()):
        yield (
            ("prompts",),
            f"has prompts of the kind {TOTAL!r}, which in scores.csv is that of the lines of "
            "totals; rename the kind",
        )


def _of_rewards(settings: EvaluateSettings) -> Found:
    for label, metric in settings.metrics.items():
        yield from _of_reward(metric, ("metrics", label))


def _of_reward(component: Component[Any], path: tuple[Step, ...]) -> Found:
    nested = component.arguments.get("reward")
    if isinstance(nested, Component):
        yield from _of_reward(nested, (*path, "reward"))
    if component.target is not weighted_reward:
        return
    arguments = dict(component.arguments)
    if arguments.pop("calibration", None) is not None:
        yield (
            (*path, "calibration"),
            "would measure scales, which only a run does; remove it, and write `mean` and `std` of "
            "each part as the run's calibration.json has them",
        )
        return
    for inner, message in faults(**arguments):
        yield (*path, *inner), message


def _of_folder(settings: EvaluateSettings, *, resume: bool) -> Found:
    taken = (
        "; name another, such as {free}, or add --resume to go on with the evaluation that is there"
    )
    return fault_of_folder("evaluation", settings.evaluation.folder, taken=taken, resume=resume)


def _of_device(settings: EvaluateSettings) -> Found:
    return fault_of_device("evaluation", settings.evaluation.device)


def run_preflight(container: EvaluationContainer, *, tried: bool = False) -> None:
    """Check the pictures' size, and every metric's packages, files and whether it can judge."""
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
            problems += problems_of_call(("metrics", label), partial(judge, label, metric))
        found += problems
    refused = [] if settings.evaluation.on_failure == "report" else list(found)
    if not (container.backbone.overridden or container.model.overridden):
        sides = picture_size_problems(settings.backbone, settings.sampling)
        sizes = [Problem(path_text(path), message, "") for path, message in sides]
        # A hub out of reach is reported already.
        unread = any(problem.path == "backbone" for problem in sizes)
        refused += sizes if unread else [*sizes, *_misfits(settings)]
        refused += _of_backbone(container) if tried else missing_load(settings)
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
    return picture_size_problems(settings.backbone, settings.sampling)


AHEAD: tuple[Check, ...] = (_of_metrics_that_stop, _of_pictures)
"""The checks of `run_preflight`, for `load`."""


def _of_backbone(container: EvaluationContainer) -> list[Problem]:
    """What is wrong with the backbone; one of others is built, and draws a picture in one step."""
    settings, built = container.settings(), []

    def draw() -> None:
        built.append(container.backbone())
        if not is_ours(built[0]):
            try_backbone(built[0], settings.sampling, "a circle")

    if named_model(settings.backbone) is not None:
        return missing_load(settings)
    problems = list(problems_of_call(("backbone",), draw))
    return [*problems, *missing_load(settings, *built)]


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
