"""The objects of a run, built once from its container, with all that goes wrong in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import attrs
import torch

from flowbp.adapters import Backbone
from flowbp.cli.rehearsal import building_problem
from flowbp.config import ConfigurationError, Problem
from flowbp.evaluation import HeldOut, Judge, Metric, Sampling
from flowbp.prompts import CachedBackbone
from flowbp.rewards import Reward, UncalibratedReward
from flowbp.settings import RunContainer, Settings
from flowbp.training import (
    Calibration,
    History,
    OptimizerRecipe,
    PromptSource,
    Ranks,
    Snapshots,
)

# The keys that are at fault when a provider cannot build.
_SECTIONS = {
    "backbone": "backbone",
    "reward": "reward",
    "judge": "judge",
    "metrics": "evaluation.metrics",
    "observers": "observers",
    "snapshots": "samples",
}
# These need the others, and would only repeat their problems.
_DEPENDENT = {"tuned": "tuning", "model": "embeddings", "anchor": "anchor", "step": "sampling"}


# What a container is made with.
_GIVEN = ("settings", "ranks")


@attrs.frozen(kw_only=True, eq=False)
class BuiltRun:
    """What a run has before its reward is calibrated and its trainer is made of that."""

    settings: Settings
    # The names of the providers that were overridden from Python.
    replaced: Sequence[str]
    device: torch.device
    # The backbone with what is trained of it, and the same with every prompt encoded once.
    tuned: Backbone
    model: CachedBackbone
    reward: Reward | UncalibratedReward
    judge: Judge | None
    metrics: Mapping[str, Metric]
    prompts: PromptSource
    ranks: Ranks
    held_out: Sequence[HeldOut]
    evaluation_sampling: Sampling | None
    snapshots: Snapshots | None
    calibration: Calibration
    calibration_prompts: Sequence[str]
    optimizer: OptimizerRecipe
    history: History


def replaced_providers(container: RunContainer) -> Sequence[str]:
    """The names of the providers that were overridden from Python."""
    providers = container.providers.items()
    return sorted(n for n, provider in providers if provider.overridden and n not in _GIVEN)


def build_run(container: RunContainer) -> BuiltRun:
    """Build all that a run needs; every part that cannot be built is reported with its key."""
    problems = _building_problems(container, _SECTIONS.items())
    for each in _DEPENDENT.items():
        problems = problems or _building_problems(container, [each])
    if problems:
        raise ConfigurationError(problems)
    return BuiltRun(
        settings=container.settings(),
        replaced=replaced_providers(container),
        device=container.device(),
        tuned=container.tuned(),
        model=container.model(),
        reward=container.reward(),
        judge=container.judge(),
        metrics=container.metrics(),
        prompts=container.prompts(),
        ranks=container.ranks(),
        held_out=container.held_out(),
        evaluation_sampling=container.evaluation_sampling(),
        snapshots=container.snapshots(),
        calibration=container.calibration(),
        calibration_prompts=container.calibration_prompts(),
        optimizer=container.optimizer(),
        history=container.history(),
    )


def _building_problems(
    container: RunContainer, sections: Iterable[tuple[str, str]]
) -> list[Problem]:
    problems = []
    for name, section in sections:
        try:
            container.providers[name]()
        # Building runs code of others, and whatever it raises is a problem of its section.
        except BaseException as error:
            problems.append(building_problem(section, error))
    return problems
