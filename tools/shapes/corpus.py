"""Training pictures with their right and wrong captions."""

from __future__ import annotations

from typing import Any

import attrs
import torch
from torch import Tensor

from flowbp.shapes.catalogue import training_prompts
from flowbp.shapes.prompts import PROMPT_KINDS, Prompt
from flowbp.shapes.render import render
from flowbp.shapes.scene import COLOURS, KINDS, SIZE, Scene
from flowbp.shapes.scene_sampling import sample_scene
from tools.shapes.corruption import corrupt
from tools.shapes.recipe import Recipe
from tools.shapes.tokens import LENGTH


@attrs.frozen(eq=False)
class Corpus:
    """n pictures and what they may be called.

    Args:
        pictures: (n, 3, 64, 64) uint8.
        tokens: (n, 1 + wrong, LENGTH) token numbers; the first caption is right, the others wrong.
        empty: (LENGTH,) tokens of the empty caption.
        layouts: (n, LAYOUT) what is where; see `layout`.
    """

    pictures: Tensor
    tokens: Tensor
    empty: Tensor
    layouts: Tensor


def draw_prompts(
    prompts: tuple[Prompt, ...], count: int, generator: torch.Generator
) -> list[Prompt]:
    """`count` prompts, the six kinds equally often, each kind's prompts uniformly."""
    by_kind = [[prompt for prompt in prompts if prompt.kind == kind] for kind in PROMPT_KINDS]
    places = torch.rand(count, generator=generator).tolist()
    return [
        pool[int(place * len(pool))]
        for n, place in enumerate(places)
        for pool in [by_kind[n % len(by_kind)]]
    ]


def tokenize(tokenizer: Any, texts: list[str]) -> Tensor:
    """Padded token numbers, (n, LENGTH)."""
    encoded = tokenizer(texts, padding="max_length", max_length=LENGTH, truncation=True)
    return torch.tensor(encoded["input_ids"])


def build_corpus(recipe: Recipe, tokenizer: Any, device: torch.device) -> Corpus:
    """Draw the pictures of training captions and keep them on `device`."""
    generator = torch.Generator().manual_seed(recipe.seed)
    prompts = draw_prompts(training_prompts(), recipe.pictures, generator)
    captions = [
        text
        for prompt in prompts
        for text in (
            prompt.text,
            *(corrupt(prompt, generator).text for _ in range(recipe.wrong_captions)),
        )
    ]
    scenes = [sample_scene(prompt, generator) for prompt in prompts]
    distinct = sorted(set(captions))
    place = {text: n for n, text in enumerate(distinct)}
    table = tokenize(tokenizer, [*distinct, ""])
    tokens = table[torch.tensor([place[text] for text in captions])]
    pictures = torch.cat(
        [
            (render(scenes[start : start + 4096]) * 255).round().to(torch.uint8)
            for start in range(0, len(scenes), 4096)
        ]
    )
    return Corpus(
        pictures.to(device),
        tokens.reshape(len(prompts), 1 + recipe.wrong_captions, LENGTH).to(device),
        table[-1].to(device),
        torch.tensor([layout(scene) for scene in scenes]).to(device),
    )


LAYOUT: int = 3 * len(KINDS) * (1 + len(COLOURS))
"""Length of a layout."""


def layout(scene: Scene) -> list[float]:
    """What is where: for each kind of shape, and for each kind in each colour, three numbers.

    They are how many there are, and the sums of their offsets from the middle to the right and
    down, in quarters of the picture.
    """
    numbers = [0.0] * LAYOUT
    for shape in scene.shapes:
        kind, colour = KINDS.index(shape.kind), list(COLOURS).index(shape.colour)
        for group in (kind, len(KINDS) + kind * len(COLOURS) + colour):
            offsets = ((each - SIZE / 2) / (SIZE / 4) for each in (shape.x, shape.y))
            for place, number in enumerate((1.0, *offsets)):
                numbers[3 * group + place] += number
    return numbers
