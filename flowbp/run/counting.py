"""How many parameters a run would train, found without loading weights where that is possible."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from flowbp.adapters import Backbone, SD3Backbone
from flowbp.adapters.extras import require
from flowbp.adapters.source import local_folder
from flowbp.container import RunContainer
from flowbp.shapes.embedded import base_folder, embedded_backbone


def count_trained(container: RunContainer) -> int:
    """Count the parameters that training changes.

    A model in SD3 layout that is not loaded yet is made on torch's meta device from its
    configuration; any other is loaded.

    Args:
        container: of the run.

    Returns:
        The number.

    Raises:
        OSError: the model is not where it should be.
        ValueError: the model cannot be loaded.

    Example:
        See `flowbp.run.main`, whose `--check` prints it.
    """
    component = container.settings().backbone
    if not container.backbone.overridden:
        if component.target == embedded_backbone:
            return _on_meta(base_folder())
        if component.target == SD3Backbone.from_pretrained:
            return _on_meta(component.arguments["source"])
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


def _on_meta(source: str | Path) -> int:
    # A missing folder is told better here than by diffusers, which does not expand ~ either.
    place = local_folder(source) or source
    transformer: Any = require("diffusers").SD3Transformer2DModel
    config = transformer.load_config(place, subfolder="transformer")
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in transformer.from_config(config).parameters())
