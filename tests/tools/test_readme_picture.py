"""The README's picture shows a run's pictures, with the checker's verdict on each."""

from __future__ import annotations

import sys

import torch
from PIL import Image

from flowbp.evaluation import grid, labelled_png, upscale
from flowbp.shapes import parse, render, sample_scene
from tools.readme_picture import _RIGHT, _WRONG, main, pictures_of

CAPTIONS = ["a red circle", "two blue squares", "a cross"]


def rendered() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return render([sample_scene(parse(caption), generator) for caption in CAPTIONS])


def test_the_pictures_of_a_sheet_are_those_that_it_was_made_of():
    before, after = rendered(), rendered().flip(0)
    found = pictures_of(grid(upscale(torch.cat([before, after]), 2), columns=3))
    assert torch.equal(found[0], before) and torch.equal(found[1], after)


def test_each_picture_has_the_mark_of_its_verdict(tmp_path, monkeypatch):
    # The first and the last of the lower row show the wrong prompt.
    pictures = torch.cat([rendered(), rendered().flip(0)])
    sheet = labelled_png(grid(upscale(pictures, 2), columns=3), {})
    (tmp_path / "before_after.png").write_bytes(sheet)
    (tmp_path / "before_after.txt").write_text("\n".join(CAPTIONS) + "\n")
    out = tmp_path / "out.png"
    monkeypatch.setattr(sys, "argv", ["x", str(tmp_path / "before_after.png"), str(out)])
    main()
    page = Image.open(out)
    counts = {colour: count for count, colour in page.getcolors(page.width * page.height)}
    assert counts[_RIGHT] > counts[_WRONG] > 500
    assert abs(counts[_RIGHT] / counts[_WRONG] - 2) < 0.2
