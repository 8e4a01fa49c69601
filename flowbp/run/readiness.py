"""Whether pictures can be drawn and what scores them loaded, found before the model is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from flowbp.configuration import Component, Problem
from flowbp.configuration.tree import Step, path_text
from flowbp.container import RunContainer
from flowbp.run.artefacts import replaced
from flowbp.run.sizing import undrawable
from flowbp.settings.needs import readings, unmet


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
    found = [each for path, component in _scorers(container) for each in unmet(component, path)]
    problems = [Problem(path_text(path), message, "") for path, message in found]
    settings = container.settings()
    if not {"backbone", "tuned", "model"} & set(replaced(container)):
        problems += undrawable(settings.backbone, settings.sampling)
    return problems


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


def _scorers(container: RunContainer) -> Iterator[tuple[tuple[Step, ...], Component[Any]]]:
    settings, others = container.settings(), replaced(container)
    if "reward" not in others:
        yield ("reward",), settings.reward
    if settings.judge is not None and "judge" not in others:
        yield ("judge",), settings.judge
    if settings.evaluation is not None and "metrics" not in others:
        for label, metric in settings.evaluation.metrics.items():
            yield ("evaluation", "metrics", label), metric
