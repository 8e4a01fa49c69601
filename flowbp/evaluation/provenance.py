"""How a picture was sampled, as texts for its file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flowbp.adapters.backbone import Backbone
    from flowbp.evaluation.generate import Sampling


def own_facts(backbone: object) -> Mapping[str, Any]:
    """What a backbone says that its pictures depend on; nothing of one that has no `facts`.

    Args:
        backbone: any.

    Returns:
        Values by name.

    Example:
        >>> from flowbp.shapes.embedded import embedded_backbone
        >>> own_facts(embedded_backbone())["compute"]
        'float32'
    """
    found = getattr(backbone, "facts", None)
    return found if isinstance(found, Mapping) else {}


def sampling_facts(backbone: Backbone, sampling: Sampling) -> dict[str, str]:
    """What pictures of a sampling depend on besides weights, prompt and noise.

    Args:
        backbone: that samples; its `facts`, where it has any, are among them.
        sampling: steps, grid, guidance and size.

    Returns:
        Texts by name: those of numbers, and of the sigmas as JSON.

    Raises:
        ValueError: the backbone cannot draw the size, or shift the grid.

    Example:
        >>> from flowbp.evaluation import Sampling
        >>> from flowbp.shapes.embedded import embedded_backbone
        >>> found = sampling_facts(embedded_backbone(), Sampling(steps=2, height=64, width=64))
        >>> found["guidance"], found["compute"]
        ('1.0', 'float32')
    """
    size = {"height": sampling.height, "width": sampling.width}
    sigmas = sampling.grid.sigmas_of(backbone, sampling.steps, **size)
    facts: dict[str, Any] = {
        "steps": sampling.steps,
        "sigmas": [round(sigma, 7) for sigma in sigmas.tolist()],
        "guidance": sampling.guidance,
        "negative_prompt": sampling.negative_prompt,
        **size,
        **own_facts(backbone),
    }
    return {
        name: each if isinstance(each, str) else json.dumps(each, default=str)
        for name, each in facts.items()
    }
