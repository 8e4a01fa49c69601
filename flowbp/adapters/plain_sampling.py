"""How pictures of a run are sampled in plain diffusers, in the words of Python."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from flowbp.adapters.sigmas import even_levels

_UNSHIFTED = {
    "shift": 1.0,
    "use_dynamic_shifting": False,
    "shift_terminal": None,
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
}
"""A scheduler that takes the sigmas that it is given as they are."""

_WIDTH = 90


@runtime_checkable
class WithPlainSampling(Protocol):
    """A backbone that can say how its pipeline samples alike; a run prints it at its end.

    Without it a backbone works as well.

    Example:
        >>> from flowbp.shapes.embedded import embedded_backbone
        >>> isinstance(embedded_backbone(), WithPlainSampling)
        True
    """

    def sampling(
        self, sigmas: Tensor, *, height: int, width: int, guidance: float, negative_prompt: str
    ) -> str:
        """The lines that sample on `sigmas` (N+1,) with ``pipeline``, see `WithLoading`."""
        ...


def sampling_lines(
    backbone: Any, sigmas: Tensor, options: Mapping[str, Any], *, height: int, width: int
) -> str:
    """The lines of Python that sample with a family's pipeline, called ``pipeline``.

    Sigmas are named only where they are not the pipeline's own, as even levels where its scheduler
    shifts these to them, and else one by one, for a scheduler that does not shift.

    Args:
        backbone: Whose grids are compared, with `sigmas` and `shifted`.
        sigmas: (N+1,), that were sampled on.
        options: Further arguments of the pipeline, by name.
        height: Of the pictures, in pixels.
        width: Of the pictures, in pixels.

    Returns:
        Lines that assign ``images``.

    Example:
        >>> from flowbp.shapes.embedded import embedded_backbone
        >>> backbone, size = embedded_backbone(), dict(height=64, width=64)
        >>> print(sampling_lines(backbone, backbone.sigmas(4, **size), {}, **size))
        images = pipeline(prompt='a prompt', num_inference_steps=4, height=64, width=64).images
    """
    steps, size = len(sigmas) - 1, {"height": height, "width": width}
    before, named = "", {}
    if not _alike(sigmas, backbone.sigmas(steps, **size)):
        named["sigmas"] = f"[1 - i / {steps} for i in range({steps})]"
        if not _alike(sigmas, backbone.shifted(even_levels(steps), **size)):
            named["sigmas"] = repr([round(level, 7) for level in sigmas[:-1].tolist()])
            before = _scheduler_line(backbone.scheduler.config)
    words = {name: repr(value) for name, value in {**size, **options}.items()}
    given = {"num_inference_steps": str(steps)} | named | words
    arguments = ["prompt='a prompt'", *(f"{name}={value}" for name, value in given.items())]
    line = f"images = pipeline({', '.join(arguments)}).images"
    if len(line) > _WIDTH:
        listed = "".join(f"    {argument},\n" for argument in arguments)
        line = f"images = pipeline(\n{listed}).images"
    return before + line


def _alike(sigmas: Tensor, others: Tensor) -> bool:
    return torch.allclose(sigmas, others, rtol=0, atol=1e-6)


def _scheduler_line(config: Mapping[str, Any]) -> str:
    # Schedulers of older versions of diffusers do not name all of them.
    changed = {
        name: value for name, value in _UNSHIFTED.items() if config.get(name, value) != value
    }
    if not changed:
        return ""
    given = "".join(f"    {name}={value!r},\n" for name, value in changed.items())
    return (
        "pipeline.scheduler = pipeline.scheduler.from_config(\n"
        f"    pipeline.scheduler.config,\n{given})\n"
    )
