"""Models and tokenizers in the layout of transformers: checked, then loaded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from flowbp.adapters.component_files import check_loading_report
from flowbp.extras import require
from flowbp.hub import cached_file
from flowbp.place import Place, local_folder, on_disk, read_json
from flowbp.rewards.pixels import CLIP_MEAN, CLIP_STD
from flowbp.rewards.weight_files import check_whole, indexed_files
from flowbp.source_files import ask_hub, find, reading

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOKENIZER_FILES = ("tokenizer.json", "vocab.json")
"""A folder with one of these holds a tokenizer of CLIP's or Qwen's kind."""

_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
_MODEL = f"config.json, preprocessor_config.json and the weights ({' or '.join(_WEIGHTS)})"
_TOKENIZER = "its tokenizer files (tokenizer*.json, special_tokens_map.json, vocab.*, merges.txt)"


def check_model(source: Place, *, check: Callable[[Path], None], argument: str = "source") -> None:
    """Refuse a model that is not whole, on disk, in the hub's cache or on the hub.

    Args:
        source: A folder or a hub id.
        check: What else a folder must be; raises.
        argument: That names the source, for messages.
    """
    folder = on_disk(source)
    if folder is None:
        config = cached_file(str(source), "config.json")
        # What the cache lacks is fetched when the model is loaded, if the hub can be asked.
        if config is None or _lacking(config.parent):
            ask_hub(str(source), "config.json", argument=argument, wanted=_MODEL)
            return
        folder = config.parent
    check(folder)
    lacking = _lacking(folder)
    if lacking:
        raise FileNotFoundError(
            f"`{argument}` {str(source)!r} {lacking}; copy or download the whole model"
        )
    for pattern in _WEIGHTS:
        for path in sorted(folder.glob(pattern)):
            check_whole(path)


def load_model(
    source: Place,
    kind: str,
    *,
    check: Callable[[Path], None],
    dtype: torch.dtype,
    unused: tuple[str, ...] = (),
) -> Any:
    """A model of one of transformers' classes, refused if any of its weights would be random.

    Args:
        source: A folder or a hub id.
        kind: The class.
        check: What a folder must be; raises.
        dtype: Of the weights.
        unused: How the names of parameters begin that may be missing.
    """
    folder = local_folder(source)
    if folder is not None:
        check_model(folder, check=check)
    with reading("source", source):
        model, report = getattr(require("transformers"), kind).from_pretrained(
            folder or str(source),
            dtype=dtype,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    missing = [key for key in report["missing_keys"] if not key.startswith(unused)]
    report = {**report, "missing_keys": missing}
    check_loading_report(report, source=source, model=type(model).__name__)
    return model


Statistics = tuple[tuple[float, ...], tuple[float, ...]]


def channel_statistics(
    source: Place, *, otherwise: Statistics = (CLIP_MEAN, CLIP_STD)
) -> Statistics:
    """Channel means and standard deviations of a model; CLIP's own where it does not say."""
    with reading("source", source):
        path = _preprocessing(source)
    stated = {} if path is None else read_json(path, what="a folder in the layout of transformers")
    mean, std = stated.get("image_mean"), stated.get("image_std")
    return tuple(mean or otherwise[0]), tuple(std or otherwise[1])


def _preprocessing(source: Place) -> Path | None:
    """The file that describes a model's preprocessing; None without one."""
    folder, name = local_folder(source), "preprocessor_config.json"
    if folder is not None:
        return folder / name if (folder / name).is_file() else None
    hub, errors = require("huggingface_hub"), require("huggingface_hub.errors")
    try:
        return Path(hub.hf_hub_download(str(source), name))
    except errors.LocalEntryNotFoundError:
        raise
    except errors.EntryNotFoundError:
        return None


def check_tokenizer(
    tokenizer: Place, *, files: Sequence[str] = TOKENIZER_FILES, argument: str = "tokenizer"
) -> None:
    """Refuse a tokenizer that has none of its `files`, on disk or on the hub."""
    find(tokenizer, *files, argument=argument, wanted=_TOKENIZER)


def load_tokenizer(
    tokenizer: Place,
    *,
    kind: str = "CLIPTokenizer",
    files: Sequence[str] = TOKENIZER_FILES,
    argument: str = "tokenizer",
) -> PreTrainedTokenizerBase:
    """Load a tokenizer by a class of transformers; a folder must hold one of the `files`."""
    folder = on_disk(tokenizer)
    if folder is not None:
        check_tokenizer(tokenizer, files=files, argument=argument)
    with reading(argument, tokenizer):
        found: PreTrainedTokenizerBase = getattr(require("transformers"), kind).from_pretrained(
            folder or str(tokenizer)
        )
    return found


def tokenizer_place(given: Place | None, source: Place, *, own: bool, published: str) -> Place:
    """The tokenizer of a CLIP model: the one given, else the source's own, else the published one.

    Args:
        given: Chosen by the user.
        source: Of the model.
        own: Whether the repository of a hub id brings its own.
        published: What the published model was trained with.
    """
    if given is not None:
        return given
    path = on_disk(source)
    if path is not None:
        own = any((path / name).is_file() for name in TOKENIZER_FILES)
    return source if own else published


def _lacking(folder: Path) -> str:
    """What a folder lacks of its weights, in words; empty if all are there."""
    for index in sorted(folder.glob("*.index.json")):
        missing = [path.name for path in indexed_files(index) if not path.is_file()]
        if missing:
            return f"lacks {missing[0]}"
    if any(any(folder.glob(pattern)) for pattern in _WEIGHTS):
        return ""
    return f"holds no weights, looked for {' and '.join(_WEIGHTS)}"
