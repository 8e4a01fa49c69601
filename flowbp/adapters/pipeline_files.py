"""Reading and writing a pipeline in diffusers layout, every cheap check first."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from flowbp.adapters.component_files import AGAIN, check_config, check_loading_report, unread
from flowbp.adapters.pipeline_layout import (
    TRANSFORMER,
    Layout,
    check_components,
    check_files,
    components_of,
    config_folder,
    pipeline_index,
)
from flowbp.adapters.pipeline_source import PipelineSource
from flowbp.adapters.quantization import quantize_like
from flowbp.adapters.single_file import check_single_file, load_single_file, single_file
from flowbp.adapters.text_encoders import TextTower, tokenizer_of
from flowbp.extras import require
from flowbp.hub import is_offline, why_unread

LEFT_OUT = "left_out.txt"
"""The only file of a component that could not be read again; it says why."""

INDEX = "model_index.json"
_ORIGIN = "_name_or_path"


def load_pipeline(
    source: PipelineSource,
    layout: Layout,
    *,
    dtype: torch.dtype,
    frozen_dtype: torch.dtype,
    optional: bool | None = None,
    weights: bool = True,
) -> Any:
    """Load a pipeline, on the CPU, once its index, configurations and files have been checked.

    The transformer is in `dtype`, all else in `frozen_dtype`. `optional` True needs the optional
    components, False leaves them out, None takes them where the source names them, and warns where
    it does not. Without `weights` every model is made from its configuration, on torch's meta
    device.
    """
    taken = components_of(source, layout, optional)
    require("transformers")
    kind = pipeline_class(layout.pipeline)
    _check_version(layout)
    parts: dict[str, Any] = dict.fromkeys(layout.unused + layout.optional)
    for name in (each for each in layout.models if each in taken):
        wanted = dtype if name == TRANSFORMER else frozen_dtype
        if name == TRANSFORMER and source.transformer is not None:
            parts[name] = _single_file_model(source, layout, wanted, weights=weights)
        elif weights:
            parts[name] = load_model(source, layout, name, wanted, taken[name])
        else:
            parts[name] = empty_model(source, layout, name, wanted)
    without_weights = [name for name in layout.others if name in taken]
    for name in without_weights:
        parts.pop(name, None)
    named = " or ".join(without_weights)
    place, at = source.place, _at(source)
    try:
        return kind.from_pretrained(place, **at, **parts)
    except OSError as error:
        raise unread(place, named, _why(error, source)) from error
    # Tokenizers that are damaged raise whatever their reader does.
    except Exception as error:
        raise ValueError(str(unread(place, named, f"{_said(error)}; {AGAIN}"))) from error


def pipeline_class(name: str) -> Any:
    """A pipeline class of diffusers."""
    diffusers = require("diffusers")
    try:
        return getattr(diffusers, name)
    except AttributeError as error:
        raise ImportError(
            f"{name} is needed here and diffusers {diffusers.__version__} does not have it; run: "
            "pip install -U diffusers"
        ) from error


def _check_version(layout: Layout) -> None:
    version = require("diffusers").__version__
    if _numbers(version) < layout.since:
        since = ".".join(map(str, layout.since))
        raise ImportError(
            f"{layout.pipeline} samples as here from diffusers {since} on, and this is {version}; "
            "run: pip install -U diffusers"
        )


def _numbers(version: str) -> tuple[int, int]:
    major, minor = (int(part) for part in version.split(".")[:2])
    return major, minor


def _at(source: PipelineSource) -> dict[str, str]:
    """The arguments that name a revision."""
    return {} if source.revision is None else {"revision": source.revision}


def _why(error: Exception, source: PipelineSource) -> str:
    return why_unread(error, source.place, revision=source.revision)


def load_model(
    source: PipelineSource, layout: Layout, name: str, dtype: torch.dtype, variant: str | None
) -> Any:
    """Load one component with weights, whose files were checked."""
    # Loaded one by one because the pipeline does not say which weights were missing.
    library, kind = layout.models[name]
    module = require(library)
    options: dict[str, Any] = {
        **_at(source),
        "subfolder": name,
        "output_loading_info": True,
        # diffusers asks the hub about a sharded model even where HF_HUB_OFFLINE is set.
        "local_files_only": is_offline(),
        "variant": variant,
    }
    if library == "diffusers":
        options[dtype_option(module.__version__)] = dtype
    else:
        options |= {"dtype": dtype, "ignore_mismatched_sizes": True}
    try:
        model, report = getattr(module, kind).from_pretrained(source.place, **options)
    except torch.OutOfMemoryError:
        raise
    # What a damaged file makes the libraries raise is of any kind.
    except Exception as error:
        raise _refusal(error, source, name, kind) from error
    check_loading_report(report, source=source.place, model=name)
    return model


def reload_model(source: PipelineSource, layout: Layout, name: str, dtype: torch.dtype) -> Any:
    """Load one component again, whose files may not be what they were."""
    return load_model(source, layout, name, dtype, check_files(source, layout, name))


def _single_file_model(
    source: PipelineSource, layout: Layout, dtype: torch.dtype, *, weights: bool
) -> Any:
    """The transformer in a file of its own, or without weights, once its header was checked."""
    path = single_file(source.transformer or "")
    empty = empty_model(source, layout, TRANSFORMER, dtype)
    check_single_file(path, empty, str(source))
    if not weights:
        return empty
    options = {dtype_option(require("diffusers").__version__): dtype}
    try:
        return load_single_file(type(empty), path, config_folder(source, TRANSFORMER), **options)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        raise ValueError(f"`transformer` {str(path)!r} cannot be read: {_said(error)}") from error


def empty_model(source: PipelineSource, layout: Layout, name: str, dtype: torch.dtype) -> Any:
    """Make one component from its configuration, without weights, on torch's meta device."""
    library, kind = layout.models[name]
    folder = config_folder(source, name)
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
        raise _refusal(error, source, name, kind) from error


def _refusal(error: Exception, source: PipelineSource, name: str, kind: str) -> Exception:
    place = source.place
    if isinstance(error, OSError):
        return unread(place, name, _why(error, source))
    # It may be a ValueError or a RuntimeError, by whether accelerate is installed.
    return ValueError(
        f"`source` {str(place)!r} has a {name} that is no fitting {kind}: {_said(error)}"
    )


def _said(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def dtype_option(version: str) -> str:
    """The name of the dtype's argument in ``from_pretrained`` of a version of diffusers."""
    # diffusers 0.42 renamed the option and warns of the old name; before, the new one is ignored.
    return "dtype" if _numbers(version) >= (0, 42) else "torch_dtype"


def load_transformer(
    folder: Path, layout: Layout, transformer: nn.Module, dtype: torch.dtype
) -> None:
    """Copy the transformer of a saved pipeline into one of the same model."""
    variant = check_transformer(folder, layout, transformer)
    saved = load_model(PipelineSource(folder), layout, TRANSFORMER, dtype, variant)
    quantize_like(saved, transformer)
    transformer.load_state_dict(saved.state_dict())


def check_transformer(folder: Path, layout: Layout, transformer: nn.Module) -> str | None:
    """Refuse a saved pipeline of another model, before its weights are read; their variant."""
    source = PipelineSource(folder)
    found = check_components(source, layout, pipeline_index(source, layout), [TRANSFORMER])
    empty = empty_model(source, layout, TRANSFORMER, torch.float32)
    quantize_like(empty, transformer)
    saved, mine = empty.state_dict(), transformer.state_dict()
    other = [
        name
        for name in sorted(saved.keys() | mine.keys())
        if name not in saved or name not in mine or saved[name].shape != mine[name].shape
    ]
    if other:
        raise ValueError(
            f"`checkpoint` {str(folder)!r} is of another model than the backbone: {len(other)} "
            f"parameters differ in name or shape, the first being {other[0]!r}"
        )
    return found[TRANSFORMER]


def save_pipeline(pipeline: Any, folder: Path) -> None:
    """Save a diffusers pipeline without the paths its components were loaded from."""
    pipeline.save_pretrained(folder)
    _without_origin(folder / INDEX, *sorted(folder.glob("*/config.json")))


def save_transformer(transformer: Any, folder: Path) -> None:
    """Save the transformer as `save_pipeline` does, into its place in a pipeline's folder."""
    transformer.save_pretrained(folder / TRANSFORMER)
    _without_origin(folder / TRANSFORMER / "config.json")


def _without_origin(*paths: Path) -> None:
    # It would publish the user's folders and make equal models differ.
    for path in paths:
        content = json.loads(path.read_text(encoding="utf-8"))
        if _ORIGIN in content:
            del content[_ORIGIN]
            path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def save_with_encoders(
    kind: Any, parts: Mapping[str, Any], towers: Mapping[str, TextTower], folder: Path
) -> None:
    """Save a pipeline whose text encoders may have left memory.

    What was trained must not be lost for a frozen encoder that has a copy elsewhere: one that
    cannot be read again is left out, with a warning, and its folder holds `LEFT_OUT`.
    """
    encoders, reasons = _read_again(kind, towers)
    tokenizers = {tokenizer_of(each): tower.tokenizer for each, tower in towers.items()}
    save_pipeline(kind(**encoders, **tokenizers, **parts), folder)
    for name, reason in reasons.items():
        (folder / name).mkdir()
        (folder / name / LEFT_OUT).write_text(reason + "\n", encoding="utf-8")
        warnings.warn(reason, stacklevel=2)


def _read_again(
    kind: Any, towers: Mapping[str, TextTower]
) -> tuple[dict[str, Any], dict[str, str]]:
    encoders: dict[str, Any] = {}
    failures: dict[str, Exception] = {}
    for name, tower in towers.items():
        try:
            encoders[name] = tower.held.anywhere()
        except Exception as error:
            # Whatever it is, even a lack of memory, it comes after hours of training that the
            # checkpoint is to keep; the warning has it.
            encoders[name], failures[name] = None, error
    given = ", ".join(f"{name}=..." for name in failures)
    return encoders, {
        name: f"the frozen component {name} could not be read again from "
        f"{towers[name].held.origin!r} ({type(error).__name__}: {error}), so that the saved "
        "pipeline is without it; what was trained is saved. Load it with an encoder from a copy "
        f"of that model: {kind.__name__}.from_pretrained(folder, {given}), or put the source back "
        "and the next checkpoint is whole"
        for name, error in failures.items()
    }
