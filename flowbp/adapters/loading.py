"""Loading a pipeline in diffusers layout, every cheap check first."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import torch

from flowbp.adapters.extras import require
from flowbp.adapters.hub import cached_folder, hub_file, is_offline, why_unread
from flowbp.adapters.source import (
    check_pipeline,
    check_tokenizer_files,
    has_component,
    local_folder,
    pipeline_index,
    read_json,
)
from flowbp.adapters.weights import check_loading_report, check_weight_files


@attrs.frozen(kw_only=True)
class Layout:
    """What a model family's pipeline folder holds.

    Args:
        pipeline: The diffusers class that model_index.json must name.
        models: Component with weights to the library and class that load it; the one that is
            trained is called ``transformer``.
        others: Components without weights: tokenizers and the scheduler.
        optional: Of these components, those that may be absent, all of them together.
        unused: Components of the pipeline class that sampling from text does not need.

    Example:
        >>> layout = Layout(
        ...     pipeline="FluxPipeline",
        ...     models={"vae": ("diffusers", "AutoencoderKL")},
        ...     others=("scheduler",),
        ... )
        >>> layout.needed
        ('vae', 'scheduler')
    """

    pipeline: str
    models: Mapping[str, tuple[str, str]]
    others: tuple[str, ...]
    optional: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()

    @property
    def needed(self) -> tuple[str, ...]:
        """The components that every source must have."""
        return tuple(name for name in (*self.models, *self.others) if name not in self.optional)


def load_pipeline(
    source: str | os.PathLike[str],
    layout: Layout,
    *,
    dtype: torch.dtype,
    frozen_dtype: torch.dtype,
    optional: bool | None = None,
) -> Any:
    """Load a pipeline whose index and folders have been checked.

    Args:
        source: A hub id or a folder in diffusers layout.
        layout: What it must hold.
        dtype: Of the transformer's weights.
        frozen_dtype: Of the weights of everything else.
        optional: True needs the optional components, False leaves them out, None takes them
            where the source has them.

    Returns:
        The pipeline, on the CPU.

    Raises:
        ModuleNotFoundError: diffusers or transformers is not installed.
        ImportError: The installed diffusers does not have the pipeline.
        FileNotFoundError: No such source, or a component's folder or weights are missing.
        ValueError: Another pipeline class, a component that is not there, or weights that are
            damaged, incomplete or of another shape.

    Example:
        >>> layout = Layout(pipeline="FluxPipeline", models={}, others=("scheduler",))
        >>> load_pipeline("/none", layout, dtype=torch.float32, frozen_dtype=torch.float32)
        Traceback (most recent call last):
            ...
        FileNotFoundError: `source` must be a folder or a hub id like owner/name, got '/none'; \
there is no folder /none
    """
    index = pipeline_index(source, from_hub=_hub_index)
    components = layout.needed + (layout.optional if optional else ())
    check_pipeline(source, index, pipeline=layout.pipeline, components=components)
    taken = optional is not False and _has_all(source, index, layout.optional)
    left_out = layout.unused + (() if taken else layout.optional)
    require("transformers")
    kind = pipeline_class(layout.pipeline)
    parts: dict[str, Any] = dict.fromkeys(left_out)
    place = local_folder(source) or str(source)
    without_weights = [name for name in layout.others if name not in parts]
    if isinstance(place, Path):
        for name in without_weights:
            if name.startswith("tokenizer"):
                check_tokenizer_files(place / name)
    for name in layout.models:
        if name not in parts:
            wanted = dtype if name == "transformer" else frozen_dtype
            parts[name] = load_model(source, layout, name, wanted)
    try:
        return kind.from_pretrained(place, **parts)
    except OSError as error:
        raise FileNotFoundError(
            f"`source` {str(place)!r} could not be read, its {' or '.join(without_weights)}: "
            f"{why_unread(error, place)}"
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
    """Load one component with weights.

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
    if isinstance(place, Path):
        check_weight_files(place / name)
    module = require(library)
    options: dict[str, Any] = {
        "subfolder": name,
        "output_loading_info": True,
        # diffusers asks the hub about a sharded model even where HF_HUB_OFFLINE is set.
        "local_files_only": is_offline(),
    }
    if library == "diffusers":
        options[dtype_option(module.__version__)] = dtype
    else:
        options |= {"dtype": dtype, "ignore_mismatched_sizes": True}
    try:
        model, report = getattr(module, kind).from_pretrained(place, **options)
    except (OSError, ValueError, RuntimeError, require("safetensors").SafetensorError) as error:
        raise _refusal(error, place, name, kind) from error
    check_loading_report(report, source=place, model=name)
    return model


def _refusal(error: Exception, place: Path | str, name: str, kind: str) -> Exception:
    # A file of the cache that was cut off is known only now, and the libraries do not name it.
    folder = cached_folder(place, name) if isinstance(place, str) else None
    if folder is not None:
        check_weight_files(folder)
    if isinstance(error, OSError):
        return FileNotFoundError(
            f"`source` {str(place)!r} could not be read, its {name}: {why_unread(error, place)}"
        )
    # It may be a ValueError or a RuntimeError, by whether accelerate is installed.
    reason = " ".join(str(error).split())
    return ValueError(f"`source` {str(place)!r} has a {name} that is no fitting {kind}: {reason}")


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


def _has_all(
    source: str | os.PathLike[str], index: Mapping[str, Any], names: tuple[str, ...]
) -> bool:
    folder = local_folder(source)
    return all(
        has_component(index, name) and (folder is None or (folder / name).is_dir())
        for name in names
    )


def _hub_index(hub_id: str) -> Mapping[str, Any]:
    return read_json(hub_file(hub_id, "model_index.json"), what="a folder in diffusers layout")
