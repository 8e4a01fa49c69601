"""The tokenizer of a CLIP model: finding it, and refusing one that is another model's."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from flowbp.adapters.extras import require
from flowbp.adapters.hub import why_unread

if TYPE_CHECKING:
    from transformers import CLIPModel, PreTrainedTokenizerBase

TOKENIZER_FILES = ("tokenizer.json", "vocab.json")
"""A folder with one of these holds a tokenizer."""


def load_tokenizer(tokenizer: str | os.PathLike[str]) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a CLIP model.

    Args:
        tokenizer: A hub id, or a folder with tokenizer.json, or vocab.json and merges.txt.

    Returns:
        The tokenizer.

    Raises:
        ModuleNotFoundError: transformers is not installed.
        FileNotFoundError: It cannot be read.

    Example:
        >>> from flowbp.shapes.embedded import reward_folder
        >>> load_tokenizer(reward_folder()).eos_token
        '<|endoftext|>'
    """
    path = Path(tokenizer).expanduser()
    if path.is_dir() and not has_tokenizer(path):
        raise FileNotFoundError(
            f"`tokenizer` {str(tokenizer)!r} holds neither {' nor '.join(TOKENIZER_FILES)}; name "
            "the folder of a CLIP model's tokenizer"
        )
    with reading("tokenizer", tokenizer):
        kind = require("transformers").CLIPTokenizer
        found: PreTrainedTokenizerBase = kind.from_pretrained(
            path if path.is_dir() else str(tokenizer)
        )
    return found


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder holds a CLIP tokenizer.

    Args:
        folder: That exists.

    Returns:
        True if it does.

    Example:
        >>> from flowbp.shapes.embedded import reward_folder
        >>> has_tokenizer(reward_folder())
        True
    """
    return any((folder / name).is_file() for name in TOKENIZER_FILES)


def check_vocabulary(tokenizer: PreTrainedTokenizerBase, model: CLIPModel) -> None:
    """Refuse a tokenizer whose end mark is not where the model reads the embedding.

    Args:
        tokenizer: To be the model's.
        model: The model.

    Raises:
        ValueError: With both marks.

    Example:
        >>> import torch
        >>> from flowbp.rewards.clip_source import load_clip
        >>> from flowbp.shapes.embedded import reward_folder
        >>> clip = load_clip(reward_folder(), dtype=torch.float32)
        >>> check_vocabulary(clip.tokenizer, clip.model)
    """
    text = model.config.text_config
    # Old configurations say 2 and mean the highest number.
    mark = text.vocab_size - 1 if text.eos_token_id == 2 else text.eos_token_id
    if tokenizer.eos_token_id != mark or len(tokenizer) > text.vocab_size:
        raise ValueError(
            f"`tokenizer` has {len(tokenizer)} entries and the end mark {tokenizer.eos_token_id}, "
            f"where the model has {text.vocab_size} and reads at {mark}; name the tokenizer of "
            "this very model"
        )


@contextmanager
def reading(argument: str, value: str | os.PathLike[str]) -> Iterator[None]:
    """A context in which what cannot be read is told with its argument, reason and cure.

    Args:
        argument: Its name.
        value: Its value.

    Raises:
        FileNotFoundError: For any OSError inside.

    Example:
        >>> with reading("tokenizer", "owner/name"):
        ...     raise OSError("no connection")
        Traceback (most recent call last):
            ...
        FileNotFoundError: `tokenizer` 'owner/name' could not be read: no connection; try \
`hf download owner/name`, or download all of its files from https://huggingface.co/owner/name \
elsewhere and give their folder
    """
    try:
        yield
    except OSError as error:
        path = Path(value).expanduser()
        why = why_unread(error, path if path.exists() else str(value))
        raise FileNotFoundError(f"`{argument}` {str(value)!r} could not be read: {why}") from error
