"""Pairs of a right and a flawed picture of one caption, between which a reward is to grade."""

from __future__ import annotations

from typing import Any

import attrs
import torch
from torch import Tensor

from flowbp.shapes.prompts import training_prompts
from flowbp.shapes.scene import COLOURS, KINDS, SIZE, Scene
from flowbp.shapes.scene_sampling import sample_scene
from tools.shapes.corpus import draw_prompts, drawn, tokenize
from tools.shapes.flaws import flawed, surely_wrong
from tools.shapes.recipe import Recipe

_OTHERS = 3


@attrs.frozen(eq=False)
class GradedCorpus:
    """n captions, each with a right picture and a flawed one that differs from it in little."""

    # (n, 3, 64, 64) uint8
    right: Tensor
    flawed: Tensor
    # (n, 2 + others, LENGTH): the caption, what the flawed picture is rightly called, other ones
    tokens: Tensor
    # (n,) of the flawed picture under the caption
    scores: Tensor
    # (n,) whether there is a caption that the flawed picture is right for
    named: Tensor
    # (n, others) whether these captions are wrong for both pictures
    wrong: Tensor
    # (n, LAYOUT) each, see `layout`
    right_layouts: Tensor
    flawed_layouts: Tensor

    def __len__(self) -> int:
        return len(self.scores)


def build_graded_corpus(recipe: Recipe, tokenizer: Any, device: torch.device) -> GradedCorpus:
    """Draw pairs of pictures for training captions and keep them on `device`."""
    generator = torch.Generator().manual_seed(recipe.seed + 7)
    prompts = draw_prompts(training_prompts(), recipe.pairs, generator)
    scenes = [sample_scene(prompt, generator) for prompt in prompts]
    flaws = [
        flawed(scene, prompt, generator) for scene, prompt in zip(scenes, prompts, strict=True)
    ]
    picked = torch.randint(len(prompts), (len(prompts), _OTHERS), generator=generator).tolist()
    others = [[prompts[n] for n in row] for row in picked]
    texts = [
        [prompt.text, (flaw.caption or prompt).text, *(each.text for each in row)]
        for prompt, flaw, row in zip(prompts, flaws, others, strict=True)
    ]
    table = {text: n for n, text in enumerate(sorted({text for row in texts for text in row}))}
    numbers = torch.tensor([[table[text] for text in row] for row in texts])
    wrong = [
        [all(surely_wrong(shown, each) for shown in (scene, *flaw.scenes)) for each in row]
        for scene, flaw, row in zip(scenes, flaws, others, strict=True)
    ]
    pictures = drawn([flaw.scene for flaw in flaws], device)
    layouts = torch.tensor([layout(flaw.scene) for flaw in flaws], device=device)
    blends = {place: flaw.blended for place, flaw in enumerate(flaws) if flaw.blended}
    if blends:
        places = list(blends)
        mixed = [scene for scene, _ in blends.values()]
        share = torch.tensor([share for _, share in blends.values()], device=device)
        ends = pictures[places].float(), drawn(mixed, device).float()
        pictures[places] = torch.lerp(*ends, share[:, None, None, None]).round().to(torch.uint8)
        ends = layouts[places], torch.tensor([layout(scene) for scene in mixed], device=device)
        layouts[places] = torch.lerp(*ends, share[:, None])
    return GradedCorpus(
        right=drawn(scenes, device),
        flawed=pictures,
        tokens=tokenize(tokenizer, list(table))[numbers].to(device),
        scores=torch.tensor([flaw.score for flaw in flaws], device=device),
        named=torch.tensor([flaw.caption is not None for flaw in flaws], device=device),
        wrong=torch.tensor(wrong, device=device),
        right_layouts=torch.tensor([layout(scene) for scene in scenes], device=device),
        flawed_layouts=layouts,
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
