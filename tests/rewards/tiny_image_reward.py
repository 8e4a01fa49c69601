"""ImageReward at a size for tests, saved as its published file is."""

from __future__ import annotations

import string
from pathlib import Path

import torch
from transformers import BertTokenizer

from flowbp.adapters import DtypePolicy
from flowbp.rewards import BLIP_LARGE, IMAGE_REWARD, ImageReward, Towers, TowerSizes

from . import blip_original

TINY = TowerSizes(
    vision=BLIP_LARGE.vision | blip_original.VISION, text=BLIP_LARGE.text | blip_original.TEXT
)
FLOAT64 = DtypePolicy(torch.float64, torch.float64)


def bert_tokenizer() -> BertTokenizer:
    """A letter-by-letter BERT tokenizer."""
    letters = string.ascii_lowercase
    entries = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters[:8]]
    entries += [f"##{letter}" for letter in letters]
    return BertTokenizer(vocab={entry: number for number, entry in enumerate(entries)})


def save(folder: Path) -> Path:
    """Write `ImageReward.pt` and a tokenizer."""
    path = folder / IMAGE_REWARD.name
    torch.save(blip_original.random_state(), path)
    bert_tokenizer().save_pretrained(folder)
    return path


def load(path: Path, **settings) -> ImageReward:
    """The reward of the tiny file, shared with nobody, its tokenizer beside it."""
    folder = path if path.is_dir() else path.parent
    usual = dict(tokenizer=folder, verify=False, sizes=TINY, towers=Towers())
    return ImageReward(source=path, **(usual | settings))
