"""What a model has to say to the user of a run, at its start and at its end."""

from __future__ import annotations

import textwrap
import warnings

from flowbp.adapters import WithGuidanceAdvice, WithLoading
from flowbp.container import RunContainer


def warn_of_guidance(container: RunContainer) -> None:
    """Warn of a scale of guidance that the model is not made for.

    Args:
        container: of the run, its model built.

    Warns:
        UserWarning: the key, what is wrong with its value, and the cure.

    Example:
        See `flowbp.run.execution.execute`.
    """
    settings, model = container.settings(), container.tuned()
    if not isinstance(model, WithGuidanceAdvice):
        return
    scales = {"sampling.guidance": settings.sampling.guidance}
    if settings.evaluation is not None and settings.evaluation.guidance is not None:
        scales["evaluation.guidance"] = settings.evaluation.guidance
    for key, scale in scales.items():
        problem = model.guidance_problem(scale)
        if problem is not None:
            warnings.warn(f"{key} {problem}", stacklevel=2)


def loading_advice(container: RunContainer, best: str | None = None) -> str:
    """How the model of a run that is done is loaded elsewhere.

    Args:
        container: of the run.
        best: the name of its best checkpoint, where that is not `final`.

    Returns:
        Lines, or nothing where the model does not tell.

    Example:
        See `flowbp.run.execution.execute`.
    """
    model, folder = container.tuned(), container.checkpoints().folder
    if not isinstance(model, WithLoading):
        return ""
    places = {"the best, in Python": best, "the last, in Python": "final"} if best else {}
    return "".join(
        f"\n{what}\n{textwrap.indent(model.loading(folder / name), '  ')}\n"
        for what, name in (places or {"in Python": "final"}).items()
    )
