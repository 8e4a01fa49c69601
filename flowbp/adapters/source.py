"""Where a model is loaded from: a hub id or a local folder, checked before anything heavy."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

# What holds the vocabulary; without any, transformers makes an empty tokenizer and says nothing.
_VOCABULARIES = ("tokenizer.json", "vocab.json", "spiece.model")

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")

_BACKBONES = {
    "StableDiffusion3Pipeline": "sd3",
    "FluxPipeline": "flux1",
    "Flux2KleinPipeline": "flux2",
}
"""Names of configurations by the pipelines that they load."""

WEIGHT_FILES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".gguf", ".sft")
"""How files of weights end; a place that does is one on disk, and no hub is asked for it."""


def local_folder(source: str | os.PathLike[str]) -> Path | None:
    """The folder that `source` names, or None where it is a hub id.

    Args:
        source: A folder, or a hub id of the form ``owner/name``.

    Returns:
        The folder's path (``~`` expanded), or None for a hub id.

    Raises:
        FileNotFoundError: It cannot be a hub id and there is no such folder, or it is a single
            file.

    Example:
        >>> local_folder("stabilityai/stable-diffusion-3.5-medium") is None
        True
    """
    if not str(source).strip():
        raise FileNotFoundError("`source` must be a folder or a hub id like owner/name, got ''")
    path = Path(source).expanduser()
    # The path of an empty text is the working folder.
    if path.is_dir() and str(source).strip():
        return path
    single = path.suffix.lower() in WEIGHT_FILES
    if path.is_file() or single:
        there = "" if path.is_file() else f"; there is no file {path} either"
        raise FileNotFoundError(
            f"`source` must be a folder in diffusers layout or a hub id, got the single file "
            f"{str(source)!r}{there}; single files are not read, convert it once with diffusers: "
            "StableDiffusion3Pipeline or FluxPipeline.from_single_file(file)"
            ".save_pretrained(folder)"
        )
    if isinstance(source, str) and is_hub_id(source):
        return None
    raise FileNotFoundError(
        f"`source` must be a folder or a hub id like owner/name, got {str(source)!r}; "
        f"there is no folder {path}"
    )


def is_hub_id(text: str) -> bool:
    """Whether a text has the form ``owner/name``, and not that of a file of weights.

    Args:
        text: Any.

    Returns:
        True if it has.

    Example:
        >>> is_hub_id("black-forest-labs/FLUX.1-dev"), is_hub_id("./folder")
        (True, False)
    """
    return _HUB_ID.fullmatch(text) is not None and not text.lower().endswith(WEIGHT_FILES)


def read_json(path: Path, *, what: str) -> Mapping[str, Any]:
    """Read a JSON object that a model folder must hold.

    Args:
        path: The file.
        what: The kind of folder it makes, for the message.

    Returns:
        The object.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not a JSON object.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"`source` must be {what}, got {str(path.parent)!r}, which has no {path.name}"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} is not valid JSON: {error}; copy or download the whole folder again"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(
            f"{path} must hold a JSON object, got {type(content).__name__}; copy or download the "
            "whole folder again"
        )
    return content


def pipeline_index(
    source: str | os.PathLike[str], *, from_hub: Callable[[str], Mapping[str, Any]]
) -> Mapping[str, Any]:
    """The ``model_index.json`` of a diffusers pipeline.

    Args:
        source: A folder or a hub id.
        from_hub: Fetches the index of a hub id.

    Returns:
        The index: component name to (library, class).

    Raises:
        FileNotFoundError: No such folder, a folder without the file, or a hub id that cannot be
            reached.
        ValueError: The file is not a JSON object.
    """
    folder = local_folder(source)
    if folder is None:
        return from_hub(str(source))
    if not (folder / "model_index.json").is_file():
        _refuse_parts(folder)
    return read_json(folder / "model_index.json", what="a folder in diffusers layout")


def check_pipeline(
    source: str | os.PathLike[str],
    index: Mapping[str, Any],
    *,
    pipeline: str,
    components: Sequence[str],
) -> None:
    """Check that an index is of the right pipeline and that its components are there.

    Args:
        source: Where the index came from; component folders are looked for where it is a folder.
        index: The content of ``model_index.json``.
        pipeline: The class name it must have.
        components: The components that must be present.

    Raises:
        ValueError: Another pipeline class, or a component the index does not have.
        FileNotFoundError: A component whose folder is missing.
    """
    found = index.get("_class_name")
    if found != pipeline:
        other = _BACKBONES.get(str(found))
        cure = f"write backbone.name={other}" if other else "no backbone here samples as that does"
        raise ValueError(f"`source` must hold a {pipeline}, got {found} in {str(source)!r}; {cure}")
    without = [name for name in components if not has_component(index, name)]
    if without:
        raise ValueError(
            f"`source` {str(source)!r} must have the components {', '.join(components)}; "
            f"its model_index.json lacks {', '.join(without)}"
        )
    folder = local_folder(source)
    if folder is None:
        return
    missing = [name for name in components if not (folder / name).is_dir()]
    if missing:
        raise FileNotFoundError(
            f"`source` {str(source)!r} lacks the folders {', '.join(missing)} that its "
            "model_index.json names; copy or download the whole pipeline"
        )


def check_tokenizer_files(folder: Path) -> None:
    """Refuse a tokenizer's folder without a vocabulary.

    Args:
        folder: Of one tokenizer.

    Raises:
        FileNotFoundError: With the files that were looked for.

    Example:
        >>> from flowbp.shapes.embedded import base_folder
        >>> check_tokenizer_files(base_folder() / "tokenizer")
    """
    if not any((folder / name).is_file() for name in _VOCABULARIES):
        raise FileNotFoundError(
            f"`source` {str(folder.parent)!r} could not be read, its {folder.name}: {folder} has "
            f"none of {', '.join(_VOCABULARIES)}; copy or download the whole folder again"
        )


def has_component(index: Mapping[str, Any], name: str) -> bool:
    """Whether the index names a class for component `name`."""
    entry = index.get(name)
    return (
        isinstance(entry, list) and len(entry) == 2 and all(isinstance(part, str) for part in entry)
    )


def _refuse_parts(folder: Path) -> None:
    """Say what a folder without an index is, where that can be seen."""
    whole = f"`source` must be a whole pipeline in diffusers layout, got {str(folder)!r}, which has"
    config = folder / "config.json"
    if config.is_file():
        kind = read_json(config, what="a model").get("_class_name") or "a single model"
        raise FileNotFoundError(
            f"{whole} no model_index.json and is {kind} alone; copy it into the folder of a whole "
            "pipeline in place of the component of that class"
        )
    adapters = ("pytorch_lora_weights.safetensors", "adapter_config.json")
    if any((folder / name).is_file() for name in adapters):
        raise FileNotFoundError(
            f"{whole} no model_index.json and is a LoRA; name the model it belongs to, and the "
            "LoRA as tuning={name: lora, start: folder} or, in an evaluation, as a checkpoint"
        )
    single = sorted(path.name for path in folder.iterdir() if path.suffix in WEIGHT_FILES)
    if single:
        raise FileNotFoundError(
            f"{whole} no model_index.json but {single[0]}; single files are not read, convert it "
            "once with diffusers: StableDiffusion3Pipeline or FluxPipeline"
            ".from_single_file(file).save_pretrained(folder)"
        )
