"""The README's picture: a run's `before_after.png` with captions and marks for right or wrong.

    python -m tools.readme_picture runs/shapes/before_after.png docs/before_after.png

The captions are those of `before_after.txt` beside it, the marks the verdicts of the embedded
world's checker on the pictures that are shown.
"""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from flowbp.evaluation import read_png, upscale
from flowbp.shapes import SIZE, ShapesChecker

_SHOWN, _GAP = 128, 2
"""Pixels of a picture's side in `before_after.png`, and between two."""
_FACTOR, _COLUMNS, _MARGIN = 3, 6, 8
_LETTERS, _FONT, _LINE, _LINES = 20, 19, 24, 3
_RIGHT, _WRONG, _INK, _GREY = (26, 127, 55), (207, 34, 46), (31, 35, 40), (89, 99, 110)
_DISC = 24


def pictures_of(sheet: Tensor) -> tuple[Tensor, Tensor]:
    """The pictures (n, 3, 64, 64) of the upper and of the lower row of a sheet (3, H, W)."""
    step, factor = _SHOWN + _GAP, _SHOWN // SIZE
    count = sheet.shape[2] // step
    rows = [
        torch.stack(
            [
                sheet[:, top : top + _SHOWN : factor, left : left + _SHOWN : factor]
                for left in range(_GAP, _GAP + count * step, step)
            ]
        )
        for top in (_GAP, _GAP + step)
    ]
    return rows[0], rows[1]


def drawn(before: Tensor, after: Tensor, captions: list[str]) -> Image.Image:
    """The picture: under each caption what was drawn before and after, with a mark on each."""
    side, judge = SIZE * _FACTOR, ShapesChecker()
    head = _LINES * _LINE + _MARGIN
    width, row_height = side + _MARGIN, side + _DISC + 2 * _MARGIN
    height = head + 2 * row_height + _MARGIN
    rows = -(-len(captions) // _COLUMNS)
    size = (_COLUMNS * width + _MARGIN, rows * height + _MARGIN)
    page = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(_FONT)
    for place, caption in enumerate(captions):
        left = _MARGIN + place % _COLUMNS * width
        top = _MARGIN + place // _COLUMNS * height
        words = textwrap.wrap(caption, _LETTERS)
        start = top + (_LINES - len(words)) * _LINE
        for number, line in enumerate(words):
            draw.text((left, start + number * _LINE), line, font=font, fill=_INK)
        for row, (label, pictures) in enumerate({"before": before, "after": after}.items()):
            above = top + head + row * row_height
            below = above + side + 4
            page.paste(_image(upscale(pictures[place], _FACTOR)), (left, above))
            draw.text((left, below), label, font=font, fill=_GREY)
            right = bool(judge(pictures[place : place + 1], [caption]).item())
            _mark(draw, left + side - _DISC, below, right=right)
    return page


def _image(picture: Tensor) -> Image.Image:
    levels = (picture * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous()
    return Image.fromarray(levels.numpy())


def _mark(draw: ImageDraw.ImageDraw, x: int, y: int, *, right: bool) -> None:
    """A tick or a cross on a disc."""
    draw.ellipse((x, y, x + _DISC, y + _DISC), fill=_RIGHT if right else _WRONG)
    if right:
        draw.line(((x + 6, y + 13), (x + 10, y + 17), (x + 18, y + 8)), fill="white", width=3)
    else:
        draw.line(((x + 8, y + 8), (x + 16, y + 16)), fill="white", width=3)
        draw.line(((x + 8, y + 16), (x + 16, y + 8)), fill="white", width=3)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sheet", type=Path, help="before_after.png of a run of `shapes`")
    parser.add_argument("out", type=Path)
    wanted = parser.parse_args()
    sheet, _ = read_png(wanted.sheet.read_bytes())
    captions = wanted.sheet.with_suffix(".txt").read_text().splitlines()
    drawn(*pictures_of(sheet), captions).save(wanted.out, optimize=True)


if __name__ == "__main__":
    main()
