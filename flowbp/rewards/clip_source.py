"""Loading a CLIPModel folder with its tokenizer and preprocessing, every cheap check first."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import torch

from flowbp.adapters.extras import require
from flowbp.adapters.source import local_folder, read_json
from flowbp.adapters.weights import check_loading_report, check_weight_files
from flowbp.rewards.clip_tokenizer import (
    TOKENIZER_FILES,
    check_vocabulary,
    has_tokenizer,
    load_tokenizer,
    reading,
)
from flowbp.rewards.needs import Need, Reading
from flowbp.rewards.pixels import CLIP_MEAN, CLIP_STD
from flowbp.rewards.sources import check_model, check_tokenizer
from flowbp.rewards.towers import TOWERS, Towers

if TYPE_CHECKING:
    from transformers import CLIPModel, PreTrainedTokenizerBase


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


def load_clip(
    source: str | os.PathLike[str],
    *,
    tokenizer: str | os.PathLike[str] | None = None,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    towers: Towers = TOWERS,
) -> LoadedClip:
    """Load a CLIPModel, its tokenizer and its channel statistics.

    Args:
        source: A hub id or a folder.
        tokenizer: A hub id or a folder of its own; None takes that of `source`.
        dtype: Of the weights.
        device: Where the model runs.
        towers: With whom it is shared.

    Returns:
        The model with what belongs to it.

    Raises:
        ModuleNotFoundError: transformers is not installed.
        FileNotFoundError: No such source, or a folder without model or tokenizer.
        ValueError: A model of another type, weights that are damaged or incomplete, or a
            tokenizer of another vocabulary.

    Example:
        >>> from flowbp.shapes.embedded import reward_folder
        >>> load_clip(reward_folder(), dtype=torch.bfloat16).model.dtype
        torch.bfloat16
    """
    folder = local_folder(source)
    if folder is not None:
        _check_folder(folder, tokenizer=tokenizer is None)
    mean, std = channel_statistics(source)
    words = load_tokenizer(source if tokenizer is None else tokenizer)
    model = load_clip_model(source, dtype=dtype, device=device, towers=towers)
    check_vocabulary(words, model)
    return LoadedClip(model=model, tokenizer=words, mean=mean, std=std)


def load_clip_model(
    source: str | os.PathLike[str],
    *,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    towers: Towers = TOWERS,
) -> CLIPModel:
    """Load a CLIPModel alone.

    Args:
        source: A hub id or a folder.
        dtype: Of the weights.
        device: Where it runs.
        towers: With whom it is shared.

    Returns:
        The model.

    Raises:
        ModuleNotFoundError: transformers is not installed.
        FileNotFoundError: No such source, or a folder without a model.
        ValueError: A model of another type, or weights that are damaged or incomplete.

    Example:
        >>> from flowbp.shapes.embedded import reward_folder
        >>> first, second = (load_clip_model(reward_folder(), dtype=torch.float32) for _ in "ab")
        >>> first is second
        True
    """
    folder = local_folder(source)
    if folder is not None:
        _check_folder(folder)
    place = folder or str(source)

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


def clip_needs(
    source: str | os.PathLike[str],
    *,
    tokenizer: str | os.PathLike[str] | None = None,
    argument: str = "source",
) -> tuple[Need, ...]:
    """What loading a CLIPModel reads.

    Args:
        source: A hub id or a folder.
        tokenizer: A hub id or a folder, which may be `source` too; None if none is read.
        argument: That names the model, for the message.

    Returns:
        The model, and the tokenizer.

    Example:
        >>> from flowbp.shapes.embedded import reward_folder
        >>> [need.check() for need in clip_needs(reward_folder(), tokenizer=reward_folder())]
        [None, None]
    """
    model = Need(
        check=partial(check_model, source, argument=argument, check=_check_folder),
        tower=source,
        reading=Reading(source),
    )
    if tokenizer is None:
        return (model,)
    # What is wrong with one place is one problem.
    named = argument if str(tokenizer) == str(source) else "tokenizer"
    words = partial(check_tokenizer, tokenizer, files=TOKENIZER_FILES, argument=named)
    return model, Need(check=words, reading=Reading(tokenizer, TOKENIZER_FILES))


def channel_statistics(
    source: str | os.PathLike[str],
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Channel means and standard deviations of a model; CLIP's own where it does not say.

    Args:
        source: A hub id or a folder.

    Returns:
        Three means, three standard deviations.

    Raises:
        FileNotFoundError: The hub cannot be reached.
        ValueError: Its preprocessor_config.json is no JSON object.

    Example:
        >>> from flowbp.shapes.embedded import reward_folder
        >>> [len(values) for values in channel_statistics(reward_folder())]
        [3, 3]
    """
    with reading("source", source):
        preprocessing = _preprocessing(source, local_folder(source))
    mean, std = (preprocessing.get(key) for key in ("image_mean", "image_std"))
    return tuple(mean or CLIP_MEAN), tuple(std or CLIP_STD)


def _check_folder(folder: Path, *, tokenizer: bool = False) -> None:
    config = read_json(folder / "config.json", what="a folder in CLIPModel layout")
    if config.get("model_type") != "clip":
        raise ValueError(
            f"`source` must hold a CLIPModel, got model_type {config.get('model_type')!r} in "
            f"{str(folder)!r}"
        )
    if tokenizer and not has_tokenizer(folder):
        raise FileNotFoundError(
            f"`source` {str(folder)!r} holds no tokenizer, looked for "
            f"{' and '.join(TOKENIZER_FILES)}; save the model's tokenizer into the same folder"
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
    hub, errors = require("huggingface_hub"), require("huggingface_hub.errors")
    try:
        return Path(hub.hf_hub_download(hub_id, name))
    except errors.LocalEntryNotFoundError:
        raise
    except errors.EntryNotFoundError:
        return None
