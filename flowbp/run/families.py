"""Which of the library's own models a configuration names, and what it says of itself."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from flowbp.adapters import (
    DiffusersBackbone,
    Flux1Backbone,
    Flux2Backbone,
    PictureSizes,
    SD3Backbone,
    read_config,
    read_stated,
)
from flowbp.configuration import Component
from flowbp.shapes.embedded import base_folder, embedded_backbone

_FAMILIES: Mapping[Any, type[DiffusersBackbone]] = {
    SD3Backbone.from_pretrained: SD3Backbone,
    Flux1Backbone.from_pretrained: Flux1Backbone,
    Flux2Backbone.from_pretrained: Flux2Backbone,
}
"""The library's own models, by what loads them."""


@attrs.frozen
class NamedModel:
    """A model of one of the library's families, not loaded.

    Args:
        family: its class.
        source: a hub id or a folder in diffusers layout.
        options: the other arguments that it would be loaded with.

    Example:
        See `named_model`.
    """

    family: type[DiffusersBackbone]
    source: str | os.PathLike[str]
    options: Mapping[str, Any] = attrs.field(factory=dict)

    @property
    def is_folder(self) -> bool:
        """Whether its source is a folder that is there."""
        return Path(self.source).expanduser().is_dir()

    def config(self, name: str) -> Mapping[str, Any]:
        """The configuration of a component, see `flowbp.adapters.read_config`."""
        return read_config(self.source, self.family.layout, name)

    def guidance_problem(self, guidance: float) -> str | None:
        """What it would say of a scale of guidance; None where its files do not say."""
        try:
            return self.family.guidance_fault(guidance, self._stated, self.options)
        except (OSError, ValueError, ImportError):
            # What is missing or of another model is refused elsewhere.
            return None

    def _stated(self, name: str) -> Mapping[str, Any]:
        if name == "transformer":
            return self.config(name)
        files = {"scheduler": "scheduler/scheduler_config.json"}
        return read_stated(self.source, files.get(name, f"{name}.json"))

    @property
    def picture_sizes(self) -> PictureSizes:
        """The pictures that it can draw."""
        return self.family.picture_sizes(self.config("transformer"), self.config("vae"))


def named_model(component: Component[Any]) -> NamedModel | None:
    """The model that a backbone's component would load.

    Args:
        component: of a backbone.

    Returns:
        The model, or None for one of which the library knows nothing before it is loaded.

    Example:
        >>> named_model(Component("shapes", embedded_backbone)).picture_sizes.multiple
        16
    """
    if component.target == embedded_backbone:
        return NamedModel(SD3Backbone, base_folder())
    if component.target in _FAMILIES:
        arguments = component.arguments
        return NamedModel(_FAMILIES[component.target], arguments["source"], arguments)
    return None
