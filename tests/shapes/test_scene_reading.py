from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

from flowbp.shapes import (
    COLOURS,
    KINDS,
    PROMPT_KINDS,
    Reading,
    Scene,
    Shape,
    all_prompts,
    read_scenes,
    render,
    sample_scene,
)
from flowbp.shapes.scene_reading import connected_components

COUNT = 300


def scenes_of(kind: str) -> list[Scene]:
    generator = torch.Generator().manual_seed(2)
    prompts = [prompt for prompt in all_prompts() if prompt.kind == kind]
    return [
        sample_scene(prompts[index * len(prompts) // COUNT], generator) for index in range(COUNT)
    ]


def blurred(images: Tensor, *, sigma: float) -> Tensor:
    offsets = torch.arange(-3, 4, dtype=torch.float32)
    bell = torch.exp(-offsets.square() / (2 * sigma**2))
    kernel = torch.outer(bell, bell) / bell.sum() ** 2
    padded = pad(images, (3, 3, 3, 3), mode="replicate")
    return conv2d(padded, kernel.expand(3, 1, 7, 7), groups=3)


def noisy(images: Tensor, *, sigma: float) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return images + sigma * torch.randn(images.shape, generator=generator)


def agrees(reading: Reading, scene: Scene) -> bool:
    rest = list(scene.shapes)
    for seen in reading.shapes:
        match = [
            shape
            for shape in rest
            if (shape.kind, shape.colour) == (seen.kind, seen.colour)
            and math.hypot(shape.x - seen.x, shape.y - seen.y) < 2
        ]
        if not match:
            return False
        rest.remove(match[0])
    return not rest and not reading.unknown


@pytest.mark.parametrize("kind", PROMPT_KINDS)
def test_scenes_are_read_back_exactly(kind: str) -> None:
    scenes = scenes_of(kind)
    images = render(scenes)
    # Measured on 1000 scenes of every kind: 1.000.
    assert sum(map(agrees, read_scenes(images), scenes)) / COUNT >= 0.995


@pytest.mark.parametrize("kind", PROMPT_KINDS)
def test_scenes_are_read_back_through_blur_and_noise(kind: str) -> None:
    scenes = scenes_of(kind)
    images = noisy(blurred(render(scenes), sigma=1.0), sigma=0.03)
    # Measured on 1000 scenes of every kind: 0.997 to 0.999.
    assert sum(map(agrees, read_scenes(images), scenes)) / COUNT >= 0.98


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("colour", COLOURS)
def test_places_and_sizes_are_read_finer_than_a_pixel(kind: str, colour: str) -> None:
    shape = Shape(kind, colour, 30.4, 25.7, 9.3)
    seen = read_scenes(render([Scene((shape,), background=0.15)]))[0].shapes[0]
    assert (seen.kind, seen.colour) == (kind, colour)
    assert math.hypot(seen.x - 30.4, seen.y - 25.7) < 0.2 and abs(seen.radius - 9.3) < 0.2


def test_larger_objects_come_first() -> None:
    small = Shape("circle", "red", 16.0, 16.0, 8.0)
    large = Shape("circle", "blue", 45.0, 45.0, 11.0)
    reading = read_scenes(render([Scene((small, large), background=0.1)]))[0]
    assert [seen.colour for seen in reading.shapes] == ["blue", "red"]


def canvas() -> tuple[Tensor, Tensor, Tensor]:
    rows, columns = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    return torch.full((3, 64, 64), 0.1), rows, columns


def painted(where: Tensor, colour: tuple[float, float, float]) -> Tensor:
    picture, _, _ = canvas()
    return torch.where(where, torch.tensor(colour)[:, None, None], picture)


def smudges() -> dict[str, Tensor]:
    picture, rows, columns = canvas()
    far = torch.hypot(rows - 32, columns - 32)
    disc = far < 10
    red, blue = COLOURS["red"], COLOURS["blue"]
    halves = painted(disc, red)
    halves[:, disc & (rows < 32)] = torch.tensor(blue)[:, None]
    return {
        "ring": painted((far < 11) & (far > 6), red),
        "bar": painted((abs(rows - 32) < 4) & (abs(columns - 32) < 14), red),
        "ellipse": painted(torch.hypot((rows - 32) / 7.0, (columns - 32) / 13.0) < 1, red),
        "touching discs": painted((far < 8) | (torch.hypot(rows - 32, columns - 46) < 8), red),
        "inverted triangle": painted((rows > 22) & (abs(columns - 32) < (42 - rows) / 2), red),
        "cyan": painted(disc, (0.1, 0.9, 0.9)),
        "grey": painted(disc, (0.5, 0.9, 0.55)),
        "two colours": halves,
        "bright picture": torch.full_like(picture, 0.9),
    }


@pytest.mark.parametrize("name", smudges())
def test_smudges_are_no_objects_but_unknown(name: str) -> None:
    reading = read_scenes(smudges()[name][None])[0]
    assert reading.shapes == () and reading.unknown >= 1


def test_specks_and_plain_noise_are_nothing_at_all() -> None:
    picture, rows, columns = canvas()
    speck = painted((abs(rows - 20) < 2) & (abs(columns - 20) < 2), COLOURS["white"])
    dark = torch.zeros_like(picture)
    noise = noisy(picture[None], sigma=0.05)[0]
    assert read_scenes(torch.stack((speck, dark, noise))) == [Reading((), 0)] * 3
    assert read_scenes(torch.empty(0, 3, 64, 64)) == []


def test_reading_is_deterministic_and_independent_of_the_batch() -> None:
    images = noisy(render(scenes_of("counting")[:150]), sigma=0.03)
    readings = read_scenes(images)
    assert readings == read_scenes(images)
    parts = read_scenes(images[:70]) + read_scenes(images[70:])
    assert [[(s.kind, s.colour) for s in one.shapes] for one in readings] == [
        [(s.kind, s.colour) for s in one.shapes] for one in parts
    ]


def plain_components(classes: Tensor) -> Tensor:
    """Flood fill, one region at a time."""
    height, width = classes.shape
    labels = torch.full_like(classes, -1)
    for number in reversed(range(height * width)):
        stack = [divmod(number, width)]
        if labels[stack[0]] >= 0 or classes[stack[0]] < 0:
            continue
        colour = classes[stack[0]]
        while stack:
            row, column = stack.pop()
            inside = 0 <= row < height and 0 <= column < width
            if not inside or labels[row, column] >= 0 or classes[row, column] != colour:
                continue
            labels[row, column] = number
            stack += [(row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)]
    return labels


@pytest.mark.parametrize("seed", range(5))
def test_components_are_those_of_a_flood_fill(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    classes = torch.randint(-1, 2, (3, 12, 15), generator=generator)
    expected = torch.stack([plain_components(picture) for picture in classes])
    assert torch.equal(connected_components(classes), expected)
