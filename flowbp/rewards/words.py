"""Loading a tokenizer of which a published reward's own file knows nothing."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from flowbp.adapters.extras import require
from flowbp.rewards.clip_tokenizer import reading
from flowbp.rewards.places import on_disk

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def load_words(
    tokenizer: str | os.PathLike[str], *, kind: str, files: Sequence[str], published: str
) -> PreTrainedTokenizerBase:
    """Load a tokenizer.

    Args:
        tokenizer: A folder or a hub id.
        kind: The class of transformers that reads it.
        files: Of which a folder holds at least one.
        published: Where the right one is to be had, for the message.

    Returns:
        The tokenizer.

    Raises:
        ModuleNotFoundError: transformers is not installed.
        FileNotFoundError: A folder without one, or the hub cannot be reached.

    Example:
        ``load_words("bert", kind="BertTokenizer", files=["vocab.txt"], published="bert-base")``
    """
    folder = on_disk(tokenizer)
    if folder is not None and not any((folder / name).is_file() for name in files):
        raise FileNotFoundError(
            f"`tokenizer` {str(tokenizer)!r} holds neither {' nor '.join(files)}; give a folder "
            f"with the tokenizer of {published}"
        )
    with reading("tokenizer", tokenizer):
        found: PreTrainedTokenizerBase = getattr(require("transformers"), kind).from_pretrained(
            str(tokenizer) if folder is None else folder
        )
    return found
