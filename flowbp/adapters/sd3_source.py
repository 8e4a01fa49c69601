"""Loading a Stable Diffusion 3 pipeline, every cheap check first."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from flowbp.adapters.extras import require
from flowbp.adapters.source import (
    check_pipeline,
    has_component,
    local_folder,
    pipeline_index,
)
from flowbp.adapters.weights import check_loading_report, check_weight_files

if TYPE_CHECKING:
    from diffusers import StableDiffusion3Pipeline

_CLASS = "StableDiffusion3Pipeline"
_NEEDED = (
    "transformer",
    "vae",
    "scheduler",
    "text_encoder",
    "tokenizer",
    "text_encoder_2",
    "tokenizer_2",
)
_T5 = ("text_encoder_3", "tokenizer_3")
_MODELS = {
    "transformer": ("diffusers", "SD3Transformer2DModel"),
    "vae": ("diffusers", "AutoencoderKL"),
    "text_encoder": ("transformers", "CLIPTextModelWithProjection"),
    "text_encoder_2": ("transformers", "CLIPTextModelWithProjection"),
    "text_encoder_3": ("transformers", "T5EncoderModel"),
}


def load_pipeline(
    source: str | os.PathLike[str],
    *,
    dtype: torch.dtype,
    frozen_dtype: torch.dtype,
    use_t5: bool | None,
) -> StableDiffusion3Pipeline:
    """Load a StableDiffusion3Pipeline whose index and folders have been checked.

    Args:
        source: A hub id or a folder in diffusers layout.
        dtype: Of the transformer's weights.
        frozen_dtype: Of the weights of everything else.
        use_t5: True needs a T5, False leaves it out, None takes it where there is one.

    Returns:
        The pipeline, on the CPU.

    Raises:
        ModuleNotFoundError: diffusers or transformers is not installed.
        FileNotFoundError: No such source, or a component's folder or weights are missing.
        ValueError: Another pipeline class, a component that is not there, or weights that are
            damaged, incomplete or of another shape.
    """
    index = pipeline_index(source, from_hub=_hub_index)
    components = _NEEDED + (_T5 if use_t5 else ())
    check_pipeline(source, index, pipeline=_CLASS, components=components)
    keep_t5 = use_t5 is not False and _has_t5(source, index)
    require("transformers")
    diffusers = require("diffusers")
    parts: dict[str, Any] = {} if keep_t5 else dict.fromkeys(_T5)
    place = local_folder(source) or str(source)
    for name in _MODELS:
        if name not in parts:
            wanted = dtype if name == "transformer" else frozen_dtype
            parts[name] = load_model(place, name, wanted)
    pipeline: StableDiffusion3Pipeline
    pipeline = diffusers.StableDiffusion3Pipeline.from_pretrained(place, **parts)
    return pipeline


def load_model(source: str | os.PathLike[str], name: str, dtype: torch.dtype) -> Any:
    """Load one component with weights.

    Args:
        source: A hub id or a folder in diffusers layout.
        name: Of the component, such as ``text_encoder``.
        dtype: Of its weights.

    Returns:
        The component, on the CPU.

    Raises:
        FileNotFoundError: No such source or component.
        ValueError: Its weights are damaged, incomplete or of another shape.

    Example:
        >>> from flowbp.shapes.embedded import base_folder
        >>> type(load_model(base_folder(), "vae", torch.float32)).__name__
        'AutoencoderKL'
    """
    # Loaded one by one because the pipeline does not say which weights were missing.
    place = local_folder(source) or str(source)
    library, kind = _MODELS[name]
    if isinstance(place, Path):
        check_weight_files(place / name)
    module = require(library)
    options: dict[str, Any] = {"subfolder": name, "output_loading_info": True}
    if library == "diffusers":
        options[_dtype_option(module.__version__)] = dtype
    else:
        options |= {"dtype": dtype, "ignore_mismatched_sizes": True}
    try:
        model, report = getattr(module, kind).from_pretrained(place, **options)
    except OSError as error:
        raise FileNotFoundError(
            f"`source` {str(place)!r} could not be read, its {name}: {error}"
        ) from error
    except (ValueError, RuntimeError) as error:
        # Which of the two diffusers raises depends on whether accelerate is installed.
        reason = " ".join(str(error).split())
        raise ValueError(
            f"`source` {str(place)!r} has a {name} that is no fitting {kind}: {reason}"
        ) from error
    check_loading_report(report, source=place, model=name)
    return model


def _dtype_option(version: str) -> str:
    # diffusers 0.42 renamed the option and warns of the old name; before, the new one is ignored.
    major, minor = (int(part) for part in version.split(".")[:2])
    return "dtype" if (major, minor) >= (0, 42) else "torch_dtype"


def _has_t5(source: str | os.PathLike[str], index: Mapping[str, Any]) -> bool:
    folder = local_folder(source)
    return all(
        has_component(index, name) and (folder is None or (folder / name).is_dir()) for name in _T5
    )


def _hub_index(hub_id: str) -> Mapping[str, Any]:
    index: Mapping[str, Any] = require("diffusers").DiffusionPipeline.load_config(hub_id)
    return index
