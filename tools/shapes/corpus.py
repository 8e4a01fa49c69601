"""Training pictures with their right and wrong captions."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import attrs
import torch
from torch import Tensor

from flowbp.shapes.prompts import PROMPT_KINDS, Prompt, training_prompts
from flowbp.shapes.render import render
from flowbp.shapes.scene import Scene
from flowbp.shapes.scene_sampling import sample_scene
from tools.shapes.corruption import corrupt
from tools.shapes.recipe import Recipe
from tools.shapes.tokens import LENGTH

_CHUNK = 4096


@attrs.frozen(eq=False)
class Corpus:
    """n pictures and what they may be called."""

    # (n, 3, H, W) uint8
    pictures: Tensor
    # (n, 1 + wrong, L), the first caption right, the others wrong
    tokens: Tensor
    # (L,) of the empty caption
    empty: Tensor


def draw_prompts(
    prompts: tuple[Prompt, ...],
    count: int,
    generator: torch.Generator,
    kinds: Sequence[str] = PROMPT_KINDS,
) -> list[Prompt]:
    """`count` prompts, of each of the kinds in turn, each kind's prompts uniformly."""
    by_kind = [[prompt for prompt in prompts if prompt.kind == kind] for kind in kinds]
    places = torch.rand(count, generator=generator).tolist()
    pools = itertools.cycle(by_kind)
    return [pool[int(place * len(pool))] for place, pool in zip(places, pools, strict=False)]


def tokenize(tokenizer: Any, texts: list[str]) -> Tensor:
    """Padded token numbers, (n, L), with the tokenizer's own L."""
    encoded = tokenizer(texts, padding="max_length", truncation=True)
    return torch.tensor(encoded["input_ids"])


def drawn(scenes: Sequence[Scene], device: torch.device) -> Tensor:
    """The pictures of scenes, (n, 3, 64, 64) uint8 on `device`."""
    pieces = [
        (render(scenes[start : start + _CHUNK], device=device) * 255).round().to(torch.uint8)
        for start in range(0, len(scenes), _CHUNK)
    ]
    return torch.cat(pieces)


def build_corpus(recipe: Recipe, tokenizer: Any, device: torch.device) -> Corpus:
    """Draw the pictures of training captions and keep them on `device`."""
    generator = torch.Generator().manual_seed(recipe.seed)
    prompts = draw_prompts(training_prompts(), recipe.pictures, generator)
    captions = []
    for prompt in prompts:
        captions.append(prompt.text)
        captions += [corrupt(prompt, generator).text for _ in range(recipe.wrong_captions)]
    scenes = [sample_scene(prompt, generator) for prompt in prompts]
    distinct = sorted(set(captions))
    place = {text: n for n, text in enumerate(distinct)}
    table = tokenize(tokenizer, [*distinct, ""])
    tokens = table[torch.tensor([place[text] for text in captions])]
    return Corpus(
        drawn(scenes, torch.device("cpu")).to(device),
        tokens.reshape(len(prompts), 1 + recipe.wrong_captions, LENGTH).to(device),
        table[-1].to(device),
    )
