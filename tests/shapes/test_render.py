from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from flowbp.shapes import COLOURS, GAP, KINDS, Scene, Shape, all_prompts, render, sample_scene
from flowbp.shapes.render import OUTLINES, coverage
from flowbp.shapes.scene import BACKGROUNDS


def one(kind: str, colour: str = "red", radius: float = 9.0) -> Scene:
    return Scene((Shape(kind, colour, 31.3, 29.8, radius),), background=0.1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("colour", COLOURS)
def test_the_middle_has_the_colour_and_the_border_the_background(kind: str, colour: str) -> None:
    picture = render([one(kind, colour)])[0]
    assert picture.dtype == torch.float32
    torch.testing.assert_close(picture[:, 29, 31], torch.tensor(COLOURS[colour]))
    torch.testing.assert_close(picture[:, 0, 0], torch.full((3,), 0.1))


@pytest.mark.parametrize("kind", KINDS)
def test_edges_are_anti_aliased_and_the_area_and_centroid_are_the_outlines(kind: str) -> None:
    x, y, radius = torch.tensor([31.3]), torch.tensor([29.8]), torch.tensor([10.0])
    cover = coverage(kind, x, y, radius)[0]
    partial = (cover > 0.01) & (cover < 0.99)
    assert 20 < partial.sum() < 120
    outline = OUTLINES[kind]
    assert math.isclose(cover.sum(), outline.area * 100, rel_tol=0.02)
    grid = torch.arange(64) + 0.5
    assert math.isclose((cover.sum(0) @ grid) / cover.sum(), 31.3, abs_tol=0.05)
    centroid = 29.8 + outline.centroid * 10
    assert math.isclose((cover.sum(1) @ grid) / cover.sum(), centroid, abs_tol=0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_shape_stays_in_its_box(kind: str) -> None:
    rows, columns = (render([one(kind)])[0, 0] > 0.11).nonzero(as_tuple=True)
    assert rows.min() >= 29.8 - 9 - 1 and rows.max() <= 29.8 + 9
    assert columns.min() >= 31.3 - 9 - 1 and columns.max() <= 31.3 + 9


def test_sampled_scenes_keep_their_gaps_and_pictures_their_range() -> None:
    generator = torch.Generator().manual_seed(0)
    scenes = [sample_scene(prompt, generator) for prompt in all_prompts()[::20]]
    pictures = render(scenes)
    assert pictures.min() >= 0 and pictures.max() <= 1
    level = torch.tensor([scene.background for scene in scenes])
    edge = int(GAP) - 1
    frame = torch.cat((pictures[:, :, :edge].flatten(1), pictures[:, :, :, -edge:].flatten(1)), 1)
    torch.testing.assert_close(frame, level[:, None].expand_as(frame))
    for scene in scenes:
        covers = torch.cat(
            [coverage(s.kind, *torch.tensor([[s.x], [s.y], [s.radius]])) for s in scene.shapes]
        )
        assert (covers > 0).sum(0).max() == 1


def test_a_batch_is_drawn_as_its_members_are() -> None:
    generator = torch.Generator().manual_seed(1)
    scenes = [sample_scene(prompt, generator) for prompt in all_prompts()[::17]]
    assert len(scenes) > 256
    pictures = render(scenes)
    for index in (0, 100, 255, 256, len(scenes) - 1):
        # Vectorised kernels round by an element's place in the batch.
        alone = render([scenes[index]])[0]
        torch.testing.assert_close(pictures[index], alone, rtol=0, atol=1e-6)


def test_no_scenes_give_no_pictures() -> None:
    assert render([]).shape == (0, 3, 64, 64)


def test_colours_are_far_apart() -> None:
    palette = torch.tensor([*COLOURS.values(), *((level,) * 3 for level in BACKGROUNDS)])
    distances = torch.pdist(palette[:-1])
    assert distances.min() > 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("star", "red", 20.0, 20.0, 9.0), "`kind`.*'star'"),
        (("circle", "pink", 20.0, 20.0, 9.0), "`colour`.*'pink'"),
        (("circle", "red", math.nan, 20.0, 9.0), "`x` and `y`.*nan"),
        (("circle", "red", 20.0, 20.0, 0.0), "`radius`.*0.0"),
        (("circle", "red", 20.0, 20.0, math.inf), "`radius`.*inf"),
    ],
)
def test_illegal_shapes_are_refused(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Shape(*arguments)


def test_illegal_scenes_are_refused() -> None:
    shape = Shape("circle", "red", 20.0, 20.0, 9.0)
    near = Shape("square", "blue", 40.0, 22.0, 9.0)
    with pytest.raises(ValueError, match="1 to 4, got 0"):
        Scene((), 0.1)
    with pytest.raises(ValueError, match=r"`background`.*0\.9"):
        Scene((shape,), 0.9)
    with pytest.raises(ValueError, match=r"from the border.*move it"):
        Scene((Shape("circle", "red", 10.0, 20.0, 9.0),), 0.1)
    with pytest.raises(ValueError, match=r"between their boxes.*move them"):
        Scene((shape, near), 0.1)
