"""Pictures of random spellings in dark ink on light paper, with their right and wrong prompts."""

from __future__ import annotations

from pathlib import Path
from random import Random
from string import ascii_uppercase
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from tools.shapes.corpus import Corpus, tokenize
from tools.shapes.recipe import Recipe
from tools.shapes.tokens import build_tokenizer
from tools.words.prompts import HELD_OUT_WORDS, prompt_for

HEIGHT, WIDTH = 32, 96
"""Of a picture, in pixels; a letter is nearly 16 wide."""

_LETTERS, _LEFT = 26, 4


def font_in(path: Path | None) -> Any:
    """The font of a TrueType file; None takes the bold typewriter letters that matplotlib has."""
    if path is None:
        import matplotlib

        path = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSansMono-Bold.ttf")
    return ImageFont.truetype(path, _LETTERS)


def letters_tokenizer() -> Any:
    """A `CLIPTokenizer` of single letters and quotation marks."""
    longest = prompt_for(5 * "A").replace(" ", "")
    return build_tokenizer((), signs='"', length=len(longest) + 2)


def drawn(word: str, font: Any, random: Random) -> Tensor:
    """A word at nearly the same place, (3, 32, 96) uint8."""
    paper = tuple(random.randint(200, 255) for _ in range(3))
    ink = tuple(random.randint(0, 70) for _ in range(3))
    place = (_LEFT + random.randint(-1, 1), HEIGHT // 2 + random.randint(-1, 1))
    picture = Image.new("RGB", (WIDTH, HEIGHT), paper)
    ImageDraw.Draw(picture).text(place, word, font=font, fill=ink, anchor="lm")
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


def build_corpus(recipe: Recipe, tokenizer: Any, font: Any, device: torch.device) -> Corpus:
    """Draw random spellings and keep them on `device`; a wrong prompt has one other letter."""
    random = Random(recipe.seed)
    spellings = [_spelling(random) for _ in range(recipe.pictures)]
    prompts = []
    for word in spellings:
        prompts.append(prompt_for(word))
        prompts += [prompt_for(_misspelt(word, random)) for _ in range(recipe.wrong_captions)]
    tokens = tokenize(tokenizer, [*prompts, ""])
    return Corpus(
        torch.stack([drawn(word, font, random) for word in spellings]).to(device),
        tokens[:-1].reshape(len(spellings), -1, tokens.shape[1]).to(device),
        tokens[-1].to(device),
    )


def _spelling(random: Random) -> str:
    word = "".join(random.choices(ascii_uppercase, k=random.randint(3, 5)))
    return _spelling(random) if word in HELD_OUT_WORDS else word


def _misspelt(word: str, random: Random) -> str:
    place = random.randrange(len(word))
    other = random.choice(ascii_uppercase.replace(word[place], ""))
    return word[:place] + other + word[place + 1 :]
