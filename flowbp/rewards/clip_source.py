"""Loading a CLIPModel folder with its tokenizer and preprocessing, every cheap check first."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import torch

from flowbp.adapters.extras import require
from flowbp.adapters.hub import why_unread
from flowbp.adapters.source import local_folder, read_json
from flowbp.adapters.weights import check_loading_report, check_weight_files
from flowbp.rewards.pixels import CLIP_MEAN, CLIP_STD

if TYPE_CHECKING:
    from transformers import CLIPModel, PreTrainedTokenizerBase

_TOKENIZER_FILES = ("tokenizer.json", "vocab.json")


@attrs.frozen(eq=False)
class LoadedClip:
    """A CLIP model with what belongs to it.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        mean: Channel means.
        std: Channel standard deviations.
    """

    model: CLIPModel
    tokenizer: PreTrainedTokenizerBase
    mean: tuple[float, ...]
    std: tuple[float, ...]


def load_clip(source: str | os.PathLike[str], *, dtype: torch.dtype) -> LoadedClip:
    """Load a CLIPModel, its tokenizer and its channel statistics.

    Args:
        source: A hub id or a folder.
        dtype: Of the weights.

    Returns:
        The model, on the CPU, with what belongs to it.

    Raises:
        ModuleNotFoundError: transformers is not installed.
        FileNotFoundError: No such source, or a folder without model or tokenizer.
        ValueError: A model of another type, or weights that are damaged or incomplete.
    """
    folder = local_folder(source)
    if folder is not None:
        _check_folder(folder)
    place = folder or source
    transformers = require("transformers")
    try:
        preprocessing = _preprocessing(source, folder)
        tokenizer = transformers.CLIPTokenizer.from_pretrained(place)
        model, report = transformers.CLIPModel.from_pretrained(
            place, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True
        )
    except OSError as error:
        reason = why_unread(error, folder or str(source))
        raise FileNotFoundError(f"`source` {str(source)!r} could not be read: {reason}") from error
    check_loading_report(report, source=source, model="CLIPModel")
    return LoadedClip(
        model=model,
        tokenizer=tokenizer,
        mean=tuple(preprocessing.get("image_mean", CLIP_MEAN)),
        std=tuple(preprocessing.get("image_std", CLIP_STD)),
    )


def _check_folder(folder: Path) -> None:
    config = read_json(folder / "config.json", what="a folder in CLIPModel layout")
    if config.get("model_type") != "clip":
        raise ValueError(
            f"`source` must hold a CLIPModel, got model_type {config.get('model_type')!r} in "
            f"{str(folder)!r}"
        )
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        raise FileNotFoundError(
            f"`source` {str(folder)!r} holds no tokenizer, looked for "
            f"{' and '.join(_TOKENIZER_FILES)}; save the model's tokenizer into the same folder"
        )
    if not (any(folder.glob("*.safetensors")) or any(folder.glob("pytorch_model*.bin"))):
        raise FileNotFoundError(
            f"`source` {str(folder)!r} holds no weights, looked for *.safetensors and "
            "pytorch_model*.bin; copy or download the whole model"
        )
    check_weight_files(folder)


def _preprocessing(source: str | os.PathLike[str], folder: Path | None) -> Mapping[str, Any]:
    if folder is None:
        path = _from_hub(str(source), "preprocessor_config.json")
    else:
        path = folder / "preprocessor_config.json"
    if path is None or not path.is_file():
        return {}
    return read_json(path, what="a folder in CLIPModel layout")


def _from_hub(hub_id: str, name: str) -> Path | None:
    hub = require("huggingface_hub")
    try:
        return Path(hub.hf_hub_download(hub_id, name))
    except hub.errors.LocalEntryNotFoundError:
        raise
    except hub.errors.EntryNotFoundError:
        return None
