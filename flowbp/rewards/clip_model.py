"""A CLIPModel folder of transformers with its tokenizer and preprocessing: checked, then loaded."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from flowbp.adapters.component_files import check_loading_report
from flowbp.extras import require
from flowbp.hub import local_folder, read_json
from flowbp.rewards.model_files import (
    CLIP_TOKENIZER_FILES,
    Place,
    check_folder,
    check_model,
    reading,
)
from flowbp.rewards.needs import Need, Reading
from flowbp.rewards.needs import tokenizer as tokenizer_need
from flowbp.rewards.pixels import CLIP_MEAN, CLIP_STD
from flowbp.rewards.towers import TOWERS, Towers

if TYPE_CHECKING:
    from transformers import CLIPModel, PreTrainedTokenizerBase

VIT_L_14 = "openai/clip-vit-large-patch14"
"""OpenAI's model on the hub, which `CLIPScore` and `AestheticScore` read."""

_LAYOUT = "a folder in CLIPModel layout"


def load_clip_model(
    source: Place,
    *,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    towers: Towers = TOWERS,
) -> CLIPModel:
    """Load a CLIPModel.

    Raises:
        ModuleNotFoundError: transformers is not installed.
        FileNotFoundError: no such source, or a folder without a model.
        ValueError: a model of another type, or weights that are damaged or incomplete.
    """
    place = check_clip_source(source) or str(source)

    def load() -> CLIPModel:
        kind = require("transformers").CLIPModel
        with reading("source", source):
            model, report = kind.from_pretrained(
                place, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True
            )
        check_loading_report(report, source=source, model="CLIPModel")
        found: CLIPModel = model
        return found

    return towers.get(place, dtype=dtype, device=device, load=load)


def check_clip_source(source: Place) -> Path | None:
    """The folder of a source once it is known to hold a CLIPModel, or None for a hub id."""
    folder = local_folder(source)
    if folder is not None:
        _check_type(folder)
        check_folder(folder, argument="source", source=source)
    return folder


def clip_needs(
    source: Place, *, tokenizer: Place | None = None, argument: str = "source"
) -> tuple[Need, ...]:
    """What loading a CLIPModel reads; `tokenizer` may be `source` too, or None if none is read."""
    model = Need(
        check=partial(check_model, source, argument=argument, check=_check_type),
        tower=source,
        reading=Reading(source),
    )
    if tokenizer is None:
        return (model,)
    # What is wrong with one place is one problem.
    named = argument if str(tokenizer) == str(source) else "tokenizer"
    return model, tokenizer_need(tokenizer, files=CLIP_TOKENIZER_FILES, argument=named)


def channel_statistics(source: Place) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Channel means and standard deviations of a model; CLIP's own where it does not say."""
    with reading("source", source):
        preprocessing = _preprocessing(source)
    mean, std = (preprocessing.get(key) for key in ("image_mean", "image_std"))
    return tuple(mean or CLIP_MEAN), tuple(std or CLIP_STD)


def check_vocabulary(tokenizer: PreTrainedTokenizerBase, model: CLIPModel) -> None:
    """Refuse a tokenizer whose end mark is not where the model reads the embedding."""
    text = model.config.text_config
    # Old configurations say 2 and mean the highest number.
    mark = text.vocab_size - 1 if text.eos_token_id == 2 else text.eos_token_id
    if tokenizer.eos_token_id != mark or len(tokenizer) > text.vocab_size:
        raise ValueError(
            f"`tokenizer` has {len(tokenizer)} entries and the end mark {tokenizer.eos_token_id}, "
            f"where the model has {text.vocab_size} and reads at {mark}; name the tokenizer of "
            "this very model"
        )


def _check_type(folder: Path) -> None:
    config = read_json(folder / "config.json", what=_LAYOUT)
    if config.get("model_type") != "clip":
        raise ValueError(
            f"`source` must hold a CLIPModel, got model_type {config.get('model_type')!r} in "
            f"{str(folder)!r}"
        )


def _preprocessing(source: Place) -> Mapping[str, Any]:
    folder, name = local_folder(source), "preprocessor_config.json"
    if folder is not None:
        path = folder / name
    else:
        hub, errors = require("huggingface_hub"), require("huggingface_hub.errors")
        try:
            path = Path(hub.hf_hub_download(str(source), name))
        except errors.LocalEntryNotFoundError:
            raise
        except errors.EntryNotFoundError:
            return {}
    return read_json(path, what=_LAYOUT) if path.is_file() else {}
