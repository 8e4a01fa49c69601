"""What can be said of a run without loading a weight."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from flowbp.components import blamed, is_ours, passes
from flowbp.configuration import ConfigurationError, Problem
from flowbp.container import RunContainer
from flowbp.run.advice import guidance_scales, warn_of_guidance
from flowbp.run.artefacts import replaced
from flowbp.run.counting import count_trained, sketched
from flowbp.run.families import named_model
from flowbp.run.overview import overview
from flowbp.run.readiness import attempted, read_from, unready, untried
from flowbp.run.rehearsal import try_backbone
from flowbp.run.resuming import resumption


def check(container: RunContainer, *, resume: bool = False) -> None:
    """Print what a run would do, and do nothing of it.

    Args:
        container: of the run.
        resume: whether it would go on in its folder.

    Warns:
        UserWarning: a scale of guidance that the model is not made for.

    Raises:
        ConfigurationError: the model's configuration cannot be read, what scores its pictures
            could not be loaded, or the run cannot go on.

    Example:
        See `flowbp.run.main`, of which it is `--check`.
    """
    refuse_processes(container)
    notes = resumption(container).notes if resume else ()
    trained = counted_parameters(container, [*unready(container), *untried(container)])
    backbone = container.settings().backbone
    if named_model(backbone) is None and not container.backbone.overridden:
        found = attempted(("backbone",), lambda: _try_backbone(container))
        problems = list(found)
        if problems:
            raise ConfigurationError(problems)
    print(overview(container.settings(), trained, replaced=replaced(container)))
    if not {"backbone", "tuned"} & set(replaced(container)):
        settings = container.settings()
        warn_of_guidance(named_model(settings.backbone), guidance_scales(settings))
    print(*read_from(container), *notes, "checked; nothing was run", sep="\n")


def _try_backbone(container: RunContainer) -> None:
    if not is_ours(container.tuned()):
        try_backbone(container.tuned(), container.settings().sampling, "a circle")


def counted_parameters(container: RunContainer, found: list[Problem]) -> int:
    """How many parameters would be trained.

    Args:
        container: of the run.
        found: what is known to be wrong; if the backbone is among it, it is not asked for again.

    Returns:
        The number, if nothing is wrong.

    Raises:
        ConfigurationError: all that is wrong.

    Example:
        See `check`.
    """
    if any(problem.path == "backbone" for problem in found):
        raise ConfigurationError(found)
    try:
        with told_as("backbone"):
            backbone = sketched(container)
        with told_as("tuning"):
            trained = count_trained(container, backbone)
    except ConfigurationError as error:
        raise ConfigurationError([*error.problems, *found]) from error
    if found:
        raise ConfigurationError(found)
    return trained


@contextmanager
def told_as(section: str) -> Iterator[None]:
    """Tell what a section's part raises as a problem of the section."""
    try:
        yield
    except (OSError, ValueError, TypeError, ModuleNotFoundError) as error:
        raise ConfigurationError([Problem(section, str(blamed(error) or error), "")]) from error
    except BaseException as error:
        found = None if passes(error) else blamed(error)
        if found is None:
            raise
        raise ConfigurationError([Problem(section, str(found), "")]) from error


def refuse_processes(container: RunContainer) -> None:
    """Refuse several processes, which would train as many models."""
    processes = container.shard().world_size
    if processes > 1:
        message = (
            f"would train {processes} models, as WORLD_SIZE is {processes} in the environment, and "
            "gradients are not shared between processes yet; unset RANK and WORLD_SIZE"
        )
        raise ConfigurationError([Problem("run", message, "")])
