"""From what was typed to the checked settings of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flowbp.configuration import Component, read_arguments, without_nulls
from flowbp.configuration.tree import Step
from flowbp.evaluate.models import fault
from flowbp.evaluate.schema import EvaluateSettings
from flowbp.evaluate.trained import training_faults
from flowbp.settings import Loaded, weighted_reward
from flowbp.settings.checks import of_place
from flowbp.settings.intervals import Found
from flowbp.settings.loading import checked
from flowbp.settings.rewards import faults


def load(arguments: Sequence[str], *, resume: bool = False) -> Loaded[EvaluateSettings]:
    """Read YAML files and overrides, and check all that can be checked without a model.

    Args:
        arguments: such as ``["evaluation.yaml", "evaluation.seeds=[0, 1]"]``; null takes a metric
            or a model away.
        resume: whether the evaluation goes on in its folder, which is then not empty.

    Returns:
        The settings.

    Raises:
        ConfigurationError: all that is wrong. What several sections together get wrong is only
            found once each of them is right.

    Example:
        >>> load(["evaluation.folder=evaluations/a", "backbone.name=shape", "prompts.name=shapes"])
        Traceback (most recent call last):
        flowbp.configuration.problems.ConfigurationError: 2 problems in the configuration:
          command line: backbone.name: no backbone is called 'shape'. Did you mean `shapes`? \
Names: `flux1`, `flux2`, `sd3`, `shapes`; or write package.module:Class
          defaults: sampling: is missing; it has no default
    """
    tree = without_nulls(without_nulls(read_arguments(arguments), "metrics"), "models")
    return checked(EvaluateSettings, tree, lambda settings: _problems(settings, resume))


def _problems(settings: EvaluateSettings, resume: bool) -> Found:
    yield from _of_place(settings, resume)
    for label, model in settings.models.items():
        found = fault(model)
        if found is not None:
            yield ("models", label, found[0]), found[1]
    yield from training_faults(settings)
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


def _of_place(settings: EvaluateSettings, resume: bool) -> Found:
    taken = (
        "; name another, such as {free}, or add --resume to go on with the evaluation that is there"
    )
    place = settings.evaluation
    return of_place("evaluation", place.folder, place.device, taken=taken, resume=resume)
