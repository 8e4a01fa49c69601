"""What a model has to say to the user of a run, at its start and at its end."""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Mapping

from flowbp.adapters import WithGuidanceAdvice, WithLoading, WithPlainSampling
from flowbp.container import RunContainer
from flowbp.settings import Settings


def warn_of_guidance(model: object, scales: Mapping[str, float]) -> None:
    """Warn of scales of guidance that a model is not made for.

    Args:
        model: that is sampled, or a `NamedModel` where it is not loaded; any other has no say.
        scales: of guidance, by the keys that set them.

    Warns:
        UserWarning: the key, what is wrong with its value, and the cure.

    Example:
        See `flowbp.run.execution.execute`.
    """
    if not isinstance(model, WithGuidanceAdvice):
        return
    for key, scale in scales.items():
        problem = model.guidance_problem(scale)
        if problem is not None:
            warnings.warn(f"{key} {problem}", stacklevel=2)


def guidance_scales(settings: Settings) -> dict[str, float]:
    """The scales of guidance that a run samples with, by their keys.

    Args:
        settings: of the run.

    Returns:
        One, or two where the evaluation has its own.

    Example:
        See `warn_of_guidance`.
    """
    scales = {"sampling.guidance": settings.sampling.guidance}
    if settings.evaluation is not None and settings.evaluation.guidance is not None:
        scales["evaluation.guidance"] = settings.evaluation.guidance
    return scales


def loading_advice(container: RunContainer, best: str | None = None) -> str:
    """How the model of a run that is done is loaded elsewhere, and sampled as it was in training.

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
    told = sampling_advice(container)
    places = {"the best, in Python": best, "the last, in Python": "final"} if best else {}
    return "".join(
        f"\n{what}\n{textwrap.indent(model.loading(folder / name) + told, '  ')}\n"
        for what, name in (places or {"in Python": "final"}).items()
    )


def sampling_advice(container: RunContainer) -> str:
    """How plain diffusers samples as the run did: grid, guidance, size.

    Args:
        container: of the run.

    Returns:
        Lines after a line break, or nothing where the model does not say.

    Example:
        See `loading_advice`.
    """
    model, sampling = container.tuned(), container.settings().sampling
    if not isinstance(model, WithPlainSampling):
        return ""
    size = {"height": sampling.height, "width": sampling.width}
    lines = model.sampling(
        sampling.grid.sigmas_of(model, sampling.steps, **size),
        guidance=sampling.guidance,
        negative_prompt=sampling.negative_prompt,
        **size,
    )
    return f"\n{lines}"
