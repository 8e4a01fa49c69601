"""Pairs of a right and a flawed picture of one caption, between which a reward is to grade."""

from __future__ import annotations

from random import Random
from typing import Any

import attrs
import torch
from torch import Tensor

from flowbp.shapes.prompts import PROMPT_KINDS, Prompt, training_prompts
from flowbp.shapes.scene import COLOURS, KINDS, SIZE, Scene
from flowbp.shapes.scene_sampling import sample_scene
from tools.shapes.corpus import draw_prompts, drawn, tokenize
from tools.shapes.corruption import near_misses
from tools.shapes.flaws import flawed, shows
from tools.shapes.recipe import Recipe

_KINDS = (*PROMPT_KINDS, "position")
"""Captions with a relation twice: they are the hardest to learn."""
_NEAR_MISSES, _OTHERS = 2, 3


@attrs.frozen(eq=False)
class GradedCorpus:
    """n captions, each with a right picture and a flawed one that differs from it in little."""

    # (n, 3, 64, 64) uint8
    right: Tensor
    flawed: Tensor
    # (n, 2 + others, LENGTH): the caption, what the flawed picture is rightly called, and other
    # ones: near misses of the caption, and captions of other pictures
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
    prompts = draw_prompts(training_prompts(), recipe.pairs, generator, _KINDS)
    scenes = [sample_scene(prompt, generator) for prompt in prompts]
    flaws = [
        flawed(scene, prompt, generator) for scene, prompt in zip(scenes, prompts, strict=True)
    ]
    picked = torch.randint(len(prompts), (len(prompts), _OTHERS), generator=generator).tolist()
    random = Random(int(torch.randint(2**62, (), generator=generator)))
    others = [
        [*_nearly_right(prompt, random), *(prompts[n] for n in row)]
        for prompt, row in zip(prompts, picked, strict=True)
    ]
    texts = [
        [prompt.text, (flaw.caption or prompt).text, *(each.text for each in row)]
        for prompt, flaw, row in zip(prompts, flaws, others, strict=True)
    ]
    table = {text: n for n, text in enumerate(sorted({text for row in texts for text in row}))}
    numbers = torch.tensor([[table[text] for text in row] for row in texts])
    wrong = [
        [not (shows(scene.shapes, each) or flaw.shows(each)) for each in row]
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
    places = [place for place, flaw in enumerate(flaws) if flaw.over]
    if places:
        over = [flaw.over for flaw in flaws if flaw.over]
        above = drawn(over, device)
        pictures[places] = torch.where(above != above[:, :, :1, :1], above, pictures[places])
        layouts[places] += torch.tensor([layout(scene) for scene in over], device=device)
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


def _nearly_right(prompt: Prompt, random: Random) -> list[Prompt]:
    """Captions that are wrong in one attribute: in the relation, if there is one, and in any."""
    attributes = near_misses(prompt)
    drawn_attributes = random.choices(list(attributes), k=_NEAR_MISSES)
    if "relation" in attributes:
        drawn_attributes[0] = "relation"
    return [random.choice(attributes[name]) for name in drawn_attributes]


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
