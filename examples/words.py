"""`python -m examples.words`: misspelt words, changed until EasyOCR reads what is wanted.

What a reward of words does to free pixels and to ones that are held back, and whether a judge of
another family agrees. Needs the extras `words` and `benchmarks`; ten minutes on two cores.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F

from flowbp.evaluation import HeldOutPrompt, ScoreRow, Scores, scores_table
from flowbp.evaluation.metrics import PPOCR
from flowbp.rewards import Reward
from flowbp.rewards.words import EasyOCR, quoted_text

# Wanted, and what the first picture says.
WORDS = """
    OPEN/OPFM flow/fluw lemon/lomen STOP/SLOP TAXI/TAKI rain/raun Hotel/Hutel KING/KIMG
    moon/maon salt/sall river/rivor Bread/Broad gold/gohd FIRE/FIPE wolf/walf Piano/Pieno
    star/sfar MILK/MULK tree/trea Zebra/Zobra BLUE/BLOE wind/wimd Queen/Quaen NOTE/NOIE
"""
HEIGHT, WIDTH, LETTERS = 32, 80, 24


def drawn(word: str) -> Tensor:
    """A word in dark ink in the middle of light paper, (1, 32, 80)."""
    path = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    picture = Image.new("L", (WIDTH, HEIGHT), 235)
    font, middle = ImageFont.truetype(path, LETTERS), (WIDTH / 2, HEIGHT / 2)
    ImageDraw.Draw(picture).text(middle, word, font=font, fill=30, anchor="mm")
    return torch.from_numpy(np.array(picture)).float()[None] / 255


def changed(images: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures (B, C, H, W) moved, stretched, slanted, paled, at times blurred, and with noise."""

    def drawn_from(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(len(images), 1, 1, 1, generator=generator)

    move = torch.zeros(len(images), 2, 3)
    ranges = {(0, 0): (0.85, 1.15), (1, 1): (0.9, 1.1), (0, 1): (-0.08, 0.08)}
    ranges |= {(0, 2): (-0.05, 0.05), (1, 2): (-0.1, 0.1)}
    for (row, column), ends in ranges.items():
        move[:, row, column] = drawn_from(*ends).flatten()
    grid = F.affine_grid(move, list(images.shape), align_corners=False)
    x = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    contrast = drawn_from(0.6, 1.0)
    x = contrast * x + (1 - contrast) * drawn_from(0.0, 1.0)
    blurred = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
    x = torch.where(drawn_from(0.0, 1.0) < 0.5, blurred, x)
    return x + 0.05 * torch.randn(x.shape, generator=generator)


def optimised(
    reward: Reward,
    start: Tensor,
    prompts: Sequence[str],
    *,
    steps: int,
    rate: float,
    coarse: int = 1,
    change: Callable[[Tensor], Tensor] = lambda images: images,
) -> Tensor:
    """Pictures (B, 3, H, W) of a higher reward, by Adam on the logits of their grey values.

    Args:
        reward: What is to rise.
        start: The first pictures, (B, 1, H, W).
        prompts: Of each.
        steps: Of Adam, at a rate that falls to 0 as a cosine.
        rate: At the first step.
        coarse: Pixels along a side for each value that is free.
        change: What the reward sees of pictures, anew at each step.
    """
    size = start.shape[-2:]
    small = F.interpolate(start, scale_factor=1 / coarse, mode="bicubic", antialias=coarse > 1)
    logits = small.clamp(0.06, 0.94).logit().requires_grad_()

    def pictures() -> Tensor:
        return F.interpolate(logits, size=size, mode="bicubic").sigmoid().expand(-1, 3, -1, -1)

    optimizer = torch.optim.Adam([logits], lr=rate)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate * (1 + math.cos(math.pi * step / steps)) / 2
        optimizer.zero_grad()
        torch.autograd.backward(-reward(change(pictures()), prompts).mean())
        optimizer.step()
    return pictures().detach()


def main(arguments: Sequence[str] | None = None) -> Scores:
    """Optimise, judge, print a table with intervals, and save the pictures side by side."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--words", type=int, default=24, help="how many of the 24 words")
    parser.add_argument("--steps", type=int, default=150, help="of Adam")
    parser.add_argument("--picture", type=Path, default=Path("words.png"), help="where it goes")
    given = parser.parse_args(arguments)
    pairs = [pair.split("/") for pair in WORDS.split()][: given.words]
    prompts = [f'a sign that says "{wanted}"' for wanted, _ in pairs]
    start = torch.stack([drawn(misspelt) for _, misspelt in pairs])
    generator = torch.Generator().manual_seed(0)
    reward, judge = EasyOCR(), PPOCR(label="judge")
    models = {
        "misspelt": start.expand(-1, 3, -1, -1),
        "free pixels": optimised(reward, start, prompts, steps=given.steps, rate=0.1),
        "coarse, changed": optimised(
            reward,
            start,
            prompts,
            steps=given.steps,
            rate=0.2,
            coarse=2,
            change=lambda images: changed(images, generator),
        ),
        "drawn rightly": torch.stack([drawn(wanted) for wanted, _ in pairs]).expand(-1, 3, -1, -1),
    }
    rows = []
    for label, images in models.items():
        columns = dict(judge(images, [HeldOutPrompt(prompt) for prompt in prompts]))
        columns["EasyOCR"] = reward(images, prompts)
        read = [
            text == quoted_text(p) for text, p in zip(reward.read(images), prompts, strict=True)
        ]
        columns["EasyOCR.exact"] = torch.tensor(read).double()
        for number, prompt in enumerate(prompts):
            values = {name: column[number].item() for name, column in columns.items()}
            rows.append(
                ScoreRow(
                    model=label, number=number, seed=0, prompt=prompt, kind="words", values=values
                )
            )
    scores = Scores(rows, scales=judge.scales)
    print(scores_table(scores))
    strips = torch.cat([torch.cat(list(images), dim=1) for images in models.values()], dim=2)
    pixels = (255 * strips).round().to(torch.uint8).permute(1, 2, 0)
    Image.fromarray(pixels.numpy()).save(given.picture)
    return scores


if __name__ == "__main__":
    main()
