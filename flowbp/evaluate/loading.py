"""From what was typed to the checked settings of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import attrs

from flowbp.configuration import Component, without_nulls
from flowbp.configuration.arguments import gathered
from flowbp.configuration.tree import Step
from flowbp.evaluate.models import fault
from flowbp.evaluate.schema import EvaluateSettings
from flowbp.evaluate.trained import training_faults
from flowbp.evaluation.scores_files import TOTAL
from flowbp.settings import Loaded, weighted_reward
from flowbp.settings.checks import Check, fault_of_device, fault_of_folder
from flowbp.settings.intervals import Found
from flowbp.settings.loading import checked
from flowbp.settings.rewards import faults


def load(
    arguments: Sequence[str], *, resume: bool = False, ahead: Sequence[Check] = ()
) -> Loaded[EvaluateSettings]:
    """Read YAML files and overrides, and check all that can be checked without a model.

    Args:
        arguments: such as ``["evaluation.yaml", "evaluation.seeds=[0, 1]"]``; null takes a metric
            or a model away.
        resume: whether the evaluation goes on in its folder, which is then not empty.
        ahead: checks that are made later anyway, and now only where something else is wrong, so
            that all is reported at once.

    Returns:
        The settings.

    Raises:
        ConfigurationError: all that is wrong. What several sections together get wrong is found
            where the keys that it is about are right.

    Example:
        >>> load(["evaluation.folder=evaluations/a", "backbone.name=shape", "prompts.name=shapes"])
        Traceback (most recent call last):
        flowbp.configuration.problems.ConfigurationError: 2 problems in the configuration:
          command line: backbone.name: no backbone is called 'shape'. Did you mean `shapes`? \
Names: `flux1`, `flux2`, `sd3`, `shapes`; or write package.module:Class
          defaults: sampling: is missing; it has no default
    """
    typed = gathered(arguments)
    tree = without_nulls(without_nulls(typed.tree, "metrics"), "models")
    checks = (
        partial(_of_folder, resume=resume),
        _of_device,
        _of_models,
        training_faults,
        _of_metrics,
        _of_kinds,
    )
    return checked(EvaluateSettings, attrs.evolve(typed, tree=tree), checks, ahead)


def _of_models(settings: EvaluateSettings) -> Found:
    for label, model in settings.models.items():
        found = fault(model)
        if found is not None:
            yield ("models", label, found[0]), found[1]


def _of_kinds(settings: EvaluateSettings) -> Found:
    if any(prompt.kind == TOTAL for prompt in settings.prompts.prompts()):
        yield (
            ("prompts",),
            f"has prompts of the kind {TOTAL!r}, which in scores.csv is that of the lines of "
            "totals; rename the kind",
        )


def _of_metrics(settings: EvaluateSettings) -> Found:
    for label, metric in settings.metrics.items():
        yield from _of_metric(metric, ("metrics", label))


def _of_metric(component: Component[Any], path: tuple[Step, ...]) -> Found:
    nested = component.arguments.get("reward")
    if isinstance(nested, Component):
        yield from _of_metric(nested, (*path, "reward"))
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
