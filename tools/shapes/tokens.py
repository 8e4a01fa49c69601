"""A CLIP tokenizer over the world's own words."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from flowbp.shapes.prompts import VOCABULARY

LENGTH = 13
"""Tokens of a caption: the longest has 11 words, and two mark its ends."""

_START, _END = "<|startoftext|>", "<|endoftext|>"


def build_tokenizer() -> Any:
    """A `CLIPTokenizer` that gives every word of the world one token; other words are spelled."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
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
    bpe.train_from_iterator(VOCABULARY, trainer)
    trained = json.loads(bpe.to_str())["model"]
    merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in trained["merges"]]
    vocabulary: dict[str, int] = trained["vocab"]
    with TemporaryDirectory() as folder:
        Path(folder, "vocab.json").write_text(json.dumps(vocabulary))
        Path(folder, "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
        tokenizer = CLIPTokenizer.from_pretrained(
            folder, model_max_length=LENGTH, pad_token=_END, unk_token=_END
        )
    split = [word for word in VOCABULARY if len(tokenizer(word).input_ids) != 3]
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
        "max_position_embeddings": LENGTH,
    }
