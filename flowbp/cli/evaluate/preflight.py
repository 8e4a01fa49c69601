"""From what was typed to checked settings, and the list of all checks before a model is loaded."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import attrs

from flowbp.adapters import Backbone
from flowbp.cli.evaluate.container import EvaluationContainer
from flowbp.cli.evaluate.models import check_applicable, load_fault, model_fault, training_faults
from flowbp.cli.evaluate.settings import EvaluateSettings
from flowbp.cli.rehearsal import faults_of_call, made_up_pictures, try_backbone, try_metric
from flowbp.component_errors import is_ours
from flowbp.config import Component, ConfigurationError, Problem, Tree, without_nulls
from flowbp.config.command_line import Arguments, read_arguments
from flowbp.config.tree import Step
from flowbp.evaluation.scores_files import TOTAL
from flowbp.settings import Loaded, preset_or_file, presets, weighted_reward
from flowbp.settings.component_needs import Found, missing_needs, reads, unsuitable
from flowbp.settings.device import fault_of_attention, fault_of_device
from flowbp.settings.folder import fault_of_folder
from flowbp.settings.loader import checked, problems_of
from flowbp.settings.preflight import Check
from flowbp.settings.unloaded_model import (
    META,
    kernel_problems,
    named_model,
    picture_size_problems,
)
from flowbp.settings.weighted_reward import faults

_Trial = Callable[[str, Component[Any]], object]
# Of a section, by which section of a run, the keys that both have.
_TAKEN_OVER = (
    ("evaluation", "run", ("device", "threads", "compile", "attention")),
    ("sampling", "sampling", ("steps", "guidance", "height", "width", "negative_prompt", "grid")),
)


def load(
    arguments: Sequence[str], *, resume: bool = False, also: Sequence[Check] = ()
) -> Loaded[EvaluateSettings]:
    """Read YAML files, presets and overrides; check all that can be checked without a model."""
    typed = read_arguments(arguments, find=preset_or_file, take=_of_preset)
    return checked_evaluation(typed, resume=resume, also=also)


def _of_preset(path: Path, tree: Tree) -> Tree:
    """Of a preset, which is a run's, what an evaluation reads; of other files all."""
    if path not in presets().values():
        return tree
    found = taken_over(tree)
    if "backbone" not in found.value:
        message = (
            "holds nothing that an evaluation reads, which are a model and how it samples; leave "
            "it out, and name what is measured in `metrics`"
        )
        raise ConfigurationError([Problem("", message, str(path))])
    return found


def taken_over(run: Tree) -> Tree:
    """What an evaluation takes over from the configuration of a run."""
    found = {key: run.value[key] for key in ("backbone", "embeddings") if key in run.value}
    for section, source, keys in _TAKEN_OVER:
        there = run.value.get(source)
        if there is not None and there.is_mapping:
            kept = {key: there.value[key] for key in keys if key in there.value}
            found[section] = Tree(kept, run.origin)
    return Tree(found, run.origin)


def checked_evaluation(
    typed: Arguments, *, resume: bool = False, also: Sequence[Check] = ()
) -> Loaded[EvaluateSettings]:
    """The same of what is read already."""
    tree = without_nulls(without_nulls(typed.tree, "metrics"), "models")
    checks = (
        partial(_folder, resume=resume),
        _device,
        _attention,
        _checkpoints,
        training_faults,
        _rewards,
        _kinds,
    )
    return checked(EvaluateSettings, attrs.evolve(typed, tree=tree), checks, also)


def run_preflight(container: EvaluationContainer, *, tried: bool = False) -> None:
    """Make the checks of metrics and models; if `tried`, those of others are called too."""
    settings = container.settings()
    prompts, images = container.prompts(), made_up_pictures(settings.sampling, container.device())

    def judge(label: str, metric: Component[Any]) -> None:
        some = prompts[: len(images)]
        try_metric(label, container.metric(label, metric), images[: len(some)], some)

    build = container.backbone if tried else None
    replaced = container.backbone.overridden or container.model.overridden
    trial = partial(_metrics, trial=judge if tried else None)
    found = list(problems_of([_needs, trial], settings))
    refused = [] if settings.evaluation.on_failure == "report" else list(found)
    if not replaced:
        refused += problems_of([_kernel, _model, partial(_backbone, build=build)], settings)
    if refused:
        raise ConfigurationError(refused)
    for each in found:
        print(f"{each}; it will be reported as failed", file=sys.stderr, flush=True)


def _folder(settings: EvaluateSettings, *, resume: bool) -> Found:
    taken = (
        "; name another, such as {free}, or add --resume to continue the evaluation that is there"
    )
    return fault_of_folder("evaluation", settings.evaluation.folder, taken=taken, resume=resume)


def _device(settings: EvaluateSettings) -> Found:
    return fault_of_device("evaluation", settings.evaluation.device)


def _attention(settings: EvaluateSettings) -> Found:
    return fault_of_attention(
        "evaluation", settings.evaluation.attention, settings.evaluation.device
    )


def _checkpoints(settings: EvaluateSettings) -> Found:
    for label, model in settings.models.items():
        found = model_fault(model)
        if found is not None:
            yield ("models", label, found[0]), found[1]


def _kinds(settings: EvaluateSettings) -> Found:
    if any(prompt.kind == TOTAL for prompt in settings.prompts.prompts()):
        yield (
            ("prompts",),
            f"has prompts of the kind {TOTAL!r}, which in scores.csv is that of the lines of "
            "totals; rename the kind",
        )


def _rewards(settings: EvaluateSettings) -> Found:
    for label, metric in settings.metrics.items():
        yield from _weighted_sums(metric, ("metrics", label))


def _weighted_sums(component: Component[Any], path: tuple[Step, ...]) -> Found:
    nested = component.arguments.get("reward")
    if isinstance(nested, Component):
        yield from _weighted_sums(nested, (*path, "reward"))
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


def _needs(settings: EvaluateSettings) -> Found:
    """What is wrong with metrics' packages and files."""
    for label, metric in settings.metrics.items():
        yield from missing_needs(metric, ("metrics", label))


def _metrics(settings: EvaluateSettings, *, trial: _Trial | None = None) -> Found:
    """Which metrics need other prompts; those that lack nothing may be tried."""
    prompts, seeds = settings.prompts.prompts(), settings.evaluation.seeds
    for label, metric in settings.metrics.items():
        path = ("metrics", label)
        wrong = list(unsuitable(metric, prompts, seeds, path))
        if wrong:
            yield from wrong
        elif trial is not None and not reads(metric) and not any(missing_needs(metric, path)):
            yield from faults_of_call(path, partial(trial, label, metric))


def _stops(check: Check) -> Check:
    """The check, where what it finds stops the evaluation instead of being reported."""

    def stopping(settings: EvaluateSettings) -> Found:
        if settings.evaluation.on_failure != "report":
            yield from check(settings)

    return stopping


def _kernel(settings: EvaluateSettings) -> Found:
    section = settings.evaluation
    return kernel_problems(settings.backbone, "evaluation", section.attention, section.device)


def _model(settings: EvaluateSettings) -> Found:
    """What is wrong with the pictures' size, and the files of backbone and models; not weights."""
    sizes = list(picture_size_problems(settings.backbone, settings.sampling))
    yield from sizes
    # A hub out of reach is reported already.
    if named_model(settings.backbone) is None or any(path == ("backbone",) for path, _ in sizes):
        return
    path: tuple[Step, ...] = ("backbone",)
    try:
        sketch = settings.backbone.build(device=META)
    except (OSError, ValueError, TypeError, ImportError) as error:
        yield path, str(error)
        return
    for label, model in settings.models.items():
        if model_fault(model) is not None:
            continue
        try:
            check_applicable(sketch, model)
        except (OSError, ValueError, TypeError, ImportError) as error:
            yield ("models", label, "checkpoint"), str(error)


def _backbone(settings: EvaluateSettings, *, build: Callable[[], Backbone] | None) -> Found:
    """What is wrong with the backbone; one of others may be built, and draws in one step."""
    built: list[Backbone] = []

    def draw(build: Callable[[], Backbone]) -> None:
        built.append(build())
        if not is_ours(built[0]):
            try_backbone(built[0], settings.sampling, "a circle")

    if build is not None and named_model(settings.backbone) is None:
        yield from faults_of_call(("backbone",), partial(draw, build))
    fault = load_fault(settings, *built)
    if fault is not None:
        yield ("backbone",), fault


READING_CHECKS: tuple[Check, ...] = (_stops(_needs), _stops(_metrics), _kernel, _model)
"""Those checks of `run_preflight` that call nothing, for `load`."""
