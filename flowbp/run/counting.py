"""How many parameters a run would train, found without loading weights where that is possible."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from flowbp.adapters import Backbone, Flux1Backbone, Flux2Backbone, SD3Backbone
from flowbp.adapters.extras import require
from flowbp.adapters.hub import hub_file
from flowbp.adapters.source import local_folder
from flowbp.container import RunContainer
from flowbp.shapes.embedded import base_folder, embedded_backbone

_TRANSFORMERS = {
    SD3Backbone.from_pretrained: "SD3Transformer2DModel",
    Flux1Backbone.from_pretrained: "FluxTransformer2DModel",
    Flux2Backbone.from_pretrained: "Flux2Transformer2DModel",
}
"""What each of the library's own models trains, by what loads it."""


def count_trained(container: RunContainer) -> int:
    """Count the parameters that training changes.

    A model of the library's own families that is not loaded yet is made on torch's meta device
    from its configuration; any other is loaded.

    Args:
        container: of the run.

    Returns:
        The number.

    Raises:
        OSError: the model is not where it should be.
        ValueError: the model cannot be loaded, or is of another family.

    Example:
        See `flowbp.run.main`, whose `--check` prints it.
    """
    component = container.settings().backbone
    if not container.backbone.overridden:
        if component.target == embedded_backbone:
            return _on_meta(base_folder(), _TRANSFORMERS[SD3Backbone.from_pretrained])
        if component.target in _TRANSFORMERS:
            return _on_meta(component.arguments["source"], _TRANSFORMERS[component.target])
    return trained_parameters(container.backbone())


def trained_parameters(backbone: Backbone) -> int:
    """Count the parameters that training changes, of a backbone that is there.

    Args:
        backbone: the model.

    Returns:
        The number.

    Example:
        >>> from types import SimpleNamespace
        >>> trained_parameters(SimpleNamespace(trainable=lambda: {"weight": torch.zeros(2, 3)}))
        6
    """
    return sum(parameter.numel() for parameter in backbone.trainable().values())


def _on_meta(source: str | Path, kind: str) -> int:
    # Neither is left to diffusers: it does not expand ~, and takes a hub that is out of reach for
    # one that has no such file.
    place = local_folder(source) or hub_file(str(source), "transformer/config.json").parents[1]
    transformer: Any = getattr(require("diffusers"), kind)
    config = transformer.load_config(place, subfolder="transformer")
    if config["_class_name"] != kind:
        raise ValueError(
            f"`source` must hold a {kind}, got {config['_class_name']} in {str(source)!r}; "
            "name the backbone of that model family"
        )
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in transformer.from_config(config).parameters())
