"""How many parameters a run would train, found without loading weights where that is possible."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import nn

from flowbp.adapters import FLOAT32, Backbone, DiffusersBackbone, DtypePolicy, Full, Lora
from flowbp.adapters.extras import require
from flowbp.adapters.loading import pipeline_class
from flowbp.container import RunContainer
from flowbp.run.families import NamedModel, named_model


@attrs.frozen(eq=False)
class Sketch:
    """As much of one of the library's backbones as counting needs, without its weights.

    Args:
        family: its class.
        module: its transformer on torch's meta device.

    Example:
        See `sketched`.
    """

    family: type[DiffusersBackbone]
    module: nn.Module

    @property
    def policy(self) -> DtypePolicy:
        """Any: it changes no shape."""
        return FLOAT32

    @property
    def lora_targets(self) -> Sequence[str]:
        """The family's."""
        return self.family.lora_targets

    @property
    def lora_pipeline(self) -> Any:
        """The family's."""
        return pipeline_class(self.family.layout.pipeline)

    def trainable(self) -> Mapping[str, nn.Parameter]:
        """The transformer's parameters that require a gradient, by name."""
        return {name: each for name, each in self.module.named_parameters() if each.requires_grad}


def sketched(container: RunContainer) -> Any:
    """What the parameters of a run can be counted on before anything is tuned.

    A model of the library's own families that is not loaded yet is made on torch's meta device
    from its configuration; any other is loaded.

    Args:
        container: of the run.

    Returns:
        A `Sketch`, or the run's backbone.

    Raises:
        OSError: the model is not where it should be.
        ValueError: the model cannot be loaded, or is of another family.

    Example:
        See `flowbp.run.main`, whose `--check` prints what is counted on it.
    """
    component = container.settings().backbone
    replaced = container.backbone.overridden or container.tuned.overridden
    # What another tuning needs of a backbone is not known here.
    if not replaced and isinstance(container.tuning(), Full | Lora):
        named = named_model(component)
        if named is not None:
            return sketch_of(named)
    return container.backbone()


def count_trained(container: RunContainer, backbone: Any) -> int:
    """Count the parameters that training would change.

    Args:
        container: of the run.
        backbone: what `sketched` returned; a sketch is tuned in place.

    Returns:
        The number.

    Raises:
        OSError: an adapter to start from cannot be read.
        ValueError: what should be trained is not there.
        TypeError: the backbone does not have what the tuning needs.

    Example:
        See `flowbp.run.main`, whose `--check` prints it.
    """
    if isinstance(backbone, Sketch):
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


def sketch_of(model: NamedModel) -> Sketch:
    """A model's transformer on torch's meta device, made from its configuration.

    Args:
        model: not loaded.

    Returns:
        The sketch.

    Raises:
        OSError: the model is not where it should be.
        ValueError: it is of another family.

    Example:
        See `sketched`.
    """
    _, kind = model.family.layout.models["transformer"]
    config = model.config("transformer")
    with torch.device("meta"):
        return Sketch(model.family, getattr(require("diffusers"), kind).from_config(config))
