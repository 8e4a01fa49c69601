"""How many parameters a run would train, found without loading weights where that is possible."""

from __future__ import annotations

from typing import Any

import torch

from flowbp.adapters import Backbone, Full, Lora
from flowbp.container import RunContainer
from flowbp.run.families import named_model

META = torch.device("meta")
"""Where a network has shapes and no weights."""


def sketched(container: RunContainer) -> Any:
    """What the parameters of a run can be counted on before anything is tuned.

    A model of the library's own families that is not loaded yet is made on torch's meta device
    from its configurations, with all the checks of loading but those of its weights; any other is
    loaded.

    Args:
        container: of the run.

    Returns:
        A backbone without weights, or the run's own.

    Raises:
        OSError: the model is not where it should be.
        ValueError: the model cannot be loaded, or is of another family.

    Example:
        See `flowbp.run.main`, whose `--check` prints what is counted on it.
    """
    component = container.settings().backbone
    replaced = container.backbone.overridden or container.tuned.overridden
    # What another tuning needs of a backbone is not known here.
    known = not replaced and isinstance(container.tuning(), Full | Lora)
    if known and named_model(component) is not None:
        return component.build(device=META)
    return container.backbone()


def count_trained(container: RunContainer, backbone: Any) -> int:
    """Count the parameters that training would change.

    Args:
        container: of the run.
        backbone: what `sketched` returned; one without weights is tuned in place.

    Returns:
        The number.

    Raises:
        OSError: an adapter to start from cannot be read.
        ValueError: what should be trained is not there.
        TypeError: the backbone does not have what the tuning needs.

    Example:
        See `flowbp.run.main`, whose `--check` prints it.
    """
    if getattr(backbone, "device", None) == META:
        return trained_parameters(container.tuning()(backbone, generator=torch.Generator()))
    return trained_parameters(container.tuned())


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
