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

    Example:
        See `named_model`.
    """

    family: type[DiffusersBackbone]
    source: str | os.PathLike[str]

    @property
    def is_folder(self) -> bool:
        """Whether its source is a folder that is there."""
        return Path(self.source).expanduser().is_dir()

    def config(self, name: str) -> Mapping[str, Any]:
        """The configuration of a component, see `flowbp.adapters.read_config`."""
        return read_config(self.source, self.family.layout, name)

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
        return NamedModel(_FAMILIES[component.target], component.arguments["source"])
    return None
