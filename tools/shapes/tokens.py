"""A CLIP tokenizer over the world's own words."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from string import ascii_lowercase
from tempfile import TemporaryDirectory
from typing import Any

from flowbp.shapes.prompts import VOCABULARY

LENGTH = 13
"""Tokens of a caption: the longest has 11 words, and two mark its ends."""

_START, _END = "<|startoftext|>", "<|endoftext|>"


def build_tokenizer(
    words: Sequence[str] = VOCABULARY, *, signs: str = "", length: int = LENGTH
) -> Any:
    """A `CLIPTokenizer` that gives every word of a vocabulary one token; other words are spelled.

    It knows small letters and, besides, `signs`; `length` is that of its captions.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    letters = [*ascii_lowercase, *signs]
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(
        vocab_size=4096,
        # Named here, the endings get their numbers in this order; the trainer's own order differs
        # from process to process.
        special_tokens=[_START, _END, *(f"{letter}</w>" for letter in letters)],
        initial_alphabet=letters,
        end_of_word_suffix="</w>",
        min_frequency=1,
        show_progress=False,
    )
    bpe.train_from_iterator(words, trainer)
    trained = json.loads(bpe.to_str())["model"]
    merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in trained["merges"]]
    vocabulary: dict[str, int] = trained["vocab"]
    with TemporaryDirectory() as folder:
        Path(folder, "vocab.json").write_text(json.dumps(vocabulary))
        Path(folder, "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
        tokenizer = CLIPTokenizer.from_pretrained(
            folder, model_max_length=length, pad_token=_END, unk_token=_END
        )
    split = [word for word in words if len(tokenizer(word).input_ids) != 3]
    if split:
        raise RuntimeError(f"the tokenizer splits {split}; raise the trainer's vocab_size")
    return tokenizer


def special_tokens(tokenizer: Any) -> dict[str, int]:
    """The token numbers that a CLIP text configuration names."""
    return {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "max_position_embeddings": tokenizer.model_max_length,
    }
