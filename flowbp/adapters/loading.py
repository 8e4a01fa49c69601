"""Loading a pipeline in diffusers layout, every cheap check first."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from flowbp.adapters.component_files import check_config
from flowbp.adapters.extras import require
from flowbp.adapters.hub import hub_file, is_offline, why_unread
from flowbp.adapters.layout import Layout, check_files, component_folder, components_of
from flowbp.adapters.source import local_folder
from flowbp.adapters.weights import check_loading_report


def load_pipeline(
    source: str | os.PathLike[str],
    layout: Layout,
    *,
    dtype: torch.dtype,
    frozen_dtype: torch.dtype,
    optional: bool | None = None,
    weights: bool = True,
) -> Any:
    """Load a pipeline whose index, configurations and files have been checked.

    Args:
        source: A hub id or a folder in diffusers layout.
        layout: What it must hold.
        dtype: Of the transformer's weights.
        frozen_dtype: Of the weights of everything else.
        optional: True needs the optional components, False leaves them out, None takes them
            where the source names them.
        weights: False reads none: every model is made from its configuration, on torch's meta
            device. All that can be checked without weights is, as with them.

    Returns:
        The pipeline, on the CPU.

    Raises:
        ModuleNotFoundError: diffusers or transformers is not installed.
        ImportError: The installed diffusers does not have the pipeline.
        FileNotFoundError: No such source, or a component's folder or weights are missing.
        ValueError: Another pipeline class, a component that is not there, or weights that are
            damaged, incomplete, quantised or of another shape.

    Warns:
        UserWarning: The source names no optional component, and `optional` is None.

    Example:
        >>> layout = Layout(pipeline="FluxPipeline", models={}, others=("scheduler",))
        >>> load_pipeline("/none", layout, dtype=torch.float32, frozen_dtype=torch.float32)
        Traceback (most recent call last):
            ...
        FileNotFoundError: `source` must be a folder or a hub id like owner/name, got '/none'; \
there is no folder /none
    """
    taken = components_of(source, layout, optional)
    require("transformers")
    kind = pipeline_class(layout.pipeline)
    place = local_folder(source) or str(source)
    parts: dict[str, Any] = dict.fromkeys(layout.unused + layout.optional)
    for name in layout.models:
        if name in taken:
            wanted = dtype if name == "transformer" else frozen_dtype
            parts[name] = (
                load_model(source, layout, name, wanted)
                if weights
                else empty_model(source, layout, name, wanted)
            )
    without_weights = [name for name in layout.others if name in taken]
    for name in without_weights:
        parts.pop(name, None)
    told = f"`source` {str(place)!r} could not be read, its {' or '.join(without_weights)}: "
    try:
        return kind.from_pretrained(place, **parts)
    except OSError as error:
        raise FileNotFoundError(f"{told}{why_unread(error, place)}") from error
    # Tokenizers that are damaged raise whatever their reader does.
    except Exception as error:
        raise ValueError(
            f"{told}{_said(error)}; copy or download the whole folder again"
        ) from error


def pipeline_class(name: str) -> Any:
    """A pipeline class of diffusers.

    Args:
        name: Of the class.

    Returns:
        The class.

    Raises:
        ModuleNotFoundError: diffusers is not installed.
        ImportError: The installed version does not have it yet.

    Example:
        >>> pipeline_class("FluxPipeline").__name__
        'FluxPipeline'
    """
    diffusers = require("diffusers")
    try:
        return getattr(diffusers, name)
    except AttributeError as error:
        raise ImportError(
            f"{name} is needed here and diffusers {diffusers.__version__} does not have it; run: "
            "pip install -U diffusers"
        ) from error


def load_model(
    source: str | os.PathLike[str], layout: Layout, name: str, dtype: torch.dtype
) -> Any:
    """Load one component with weights; a variant such as fp16 if there are no others.

    Args:
        source: A hub id or a folder in diffusers layout.
        layout: What it holds.
        name: Of the component, such as ``text_encoder``.
        dtype: Of its weights.

    Returns:
        The component, on the CPU.

    Raises:
        FileNotFoundError: No such source or component.
        ValueError: Its weights are damaged, incomplete or of another shape.

    Example:
        >>> from flowbp.shapes.embedded import base_folder
        >>> models = {"vae": ("diffusers", "AutoencoderKL")}
        >>> layout = Layout(pipeline="StableDiffusion3Pipeline", models=models, others=())
        >>> type(load_model(base_folder(), layout, "vae", torch.float32)).__name__
        'AutoencoderKL'
    """
    # Loaded one by one because the pipeline does not say which weights were missing.
    place = local_folder(source) or str(source)
    library, kind = layout.models[name]
    module = require(library)
    options: dict[str, Any] = {
        "subfolder": name,
        "output_loading_info": True,
        # diffusers asks the hub about a sharded model even where HF_HUB_OFFLINE is set.
        "local_files_only": is_offline(),
        "variant": check_files(place, layout, name),
    }
    if library == "diffusers":
        options[dtype_option(module.__version__)] = dtype
    else:
        options |= {"dtype": dtype, "ignore_mismatched_sizes": True}
    try:
        model, report = getattr(module, kind).from_pretrained(place, **options)
    except torch.OutOfMemoryError:
        raise
    # What a damaged file makes the libraries raise is of any kind.
    except Exception as error:
        raise _refusal(error, place, name, kind) from error
    check_loading_report(report, source=place, model=name)
    return model


def empty_model(
    source: str | os.PathLike[str], layout: Layout, name: str, dtype: torch.dtype
) -> Any:
    """Make one component from its configuration, without weights, on torch's meta device.

    Args:
        source: A hub id or a folder in diffusers layout.
        layout: What it holds.
        name: Of the component.
        dtype: Of the weights that it would have.

    Returns:
        The component.

    Raises:
        FileNotFoundError: No such source or component.
        ValueError: Its configuration is none of that class.

    Example:
        >>> from flowbp.shapes.embedded import base_folder
        >>> models = {"vae": ("diffusers", "AutoencoderKL")}
        >>> layout = Layout(pipeline="StableDiffusion3Pipeline", models=models, others=())
        >>> empty_model(base_folder(), layout, "vae", torch.float32).device.type
        'meta'
    """
    place = local_folder(source) or str(source)
    library, kind = layout.models[name]
    folder = component_folder(place, name) or hub_file(str(place), f"{name}/config.json").parent
    check_config(folder, library, kind)
    component: Any = getattr(require(library), kind)
    try:
        with torch.device("meta"):
            if library == "diffusers":
                model = component.from_config(component.load_config(folder))
            else:
                model = component(component.config_class.from_pretrained(folder))
            # The plain method, as in `DtypePolicy.place`.
            return nn.Module.to(model, dtype=dtype)
    # A configuration of wrong values makes the libraries raise anything.
    except Exception as error:
        raise _refusal(error, place, name, kind) from error


def _refusal(error: Exception, place: Path | str, name: str, kind: str) -> Exception:
    if isinstance(error, OSError):
        return FileNotFoundError(
            f"`source` {str(place)!r} could not be read, its {name}: {why_unread(error, place)}"
        )
    # It may be a ValueError or a RuntimeError, by whether accelerate is installed.
    return ValueError(
        f"`source` {str(place)!r} has a {name} that is no fitting {kind}: {_said(error)}"
    )


def _said(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def dtype_option(version: str) -> str:
    """How an argument of diffusers' ``from_pretrained`` is called.

    Args:
        version: Of diffusers.

    Returns:
        ``dtype``, or ``torch_dtype`` before 0.42.

    Example:
        >>> dtype_option("0.36.0"), dtype_option("0.42.1")
        ('torch_dtype', 'dtype')
    """
    # diffusers 0.42 renamed the option and warns of the old name; before, the new one is ignored.
    major, minor = (int(part) for part in version.split(".")[:2])
    return "dtype" if (major, minor) >= (0, 42) else "torch_dtype"
