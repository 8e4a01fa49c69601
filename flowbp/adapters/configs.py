"""What a model says of itself, read without its weights."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from typing import Any

from flowbp.adapters.component_files import check_config
from flowbp.adapters.extras import require
from flowbp.adapters.hub import hub_file
from flowbp.adapters.layout import Layout
from flowbp.adapters.source import local_folder, read_json


def read_config(source: str | os.PathLike[str], layout: Layout, name: str) -> Mapping[str, Any]:
    """The configuration of a diffusers component, with the defaults of what it leaves out.

    Args:
        source: A hub id or a folder in diffusers layout.
        layout: What it must hold.
        name: Of the component, such as ``transformer``.

    Returns:
        Its arguments by name.

    Raises:
        ModuleNotFoundError: diffusers is not installed.
        OSError: No such source, or no such file in it.
        ValueError: The component is of another class.

    Example:
        >>> from flowbp.adapters import SD3Backbone
        >>> from flowbp.shapes.embedded import base_folder
        >>> read_config(base_folder(), SD3Backbone.layout, "transformer")["patch_size"]
        2
    """
    # Not left to diffusers: it does not expand ~, and takes a hub that is out of reach for one that
    # has no such file.
    place = local_folder(source) or hub_file(str(source), f"{name}/config.json").parents[1]
    library, kind = layout.models[name]
    component: Any = getattr(require(library), kind)
    config = check_config(place / name, library, kind)
    arguments = inspect.signature(component.__init__).parameters.values()
    defaults = {each.name: each.default for each in arguments if each.default is not each.empty}
    return defaults | dict(config)


def read_stated(source: str | os.PathLike[str], file: str) -> Mapping[str, Any]:
    """A JSON file of a pipeline that belongs to no network, as it is written.

    Args:
        source: A hub id or a folder in diffusers layout.
        file: Such as ``model_index.json``.

    Returns:
        Its content.

    Raises:
        OSError: No such source, or no such file in it.
        ValueError: It is not a JSON object.

    Example:
        >>> from flowbp.shapes.embedded import base_folder
        >>> read_stated(base_folder(), "model_index.json")["_class_name"]
        'StableDiffusion3Pipeline'
    """
    folder = local_folder(source)
    path = hub_file(str(source), file) if folder is None else folder / file
    return read_json(path, what="a folder in diffusers layout")
