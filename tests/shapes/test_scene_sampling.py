from __future__ import annotations

from collections import Counter

import pytest
import torch

from flowbp.shapes import (
    COLOURS,
    KINDS,
    PROMPT_KINDS,
    Prompt,
    all_prompts,
    check,
    parse,
    render,
    sample_scene,
)
from tools.shapes.corruption import corrupt


def of_kind(kind: str, count: int) -> list[Prompt]:
    prompts = [prompt for prompt in all_prompts() if prompt.kind == kind]
    return [prompts[index * len(prompts) // count] for index in range(count)]


@pytest.mark.parametrize("kind", PROMPT_KINDS)
def test_scenes_pass_their_own_caption_and_fail_a_corrupted_one(kind: str) -> None:
    generator = torch.Generator().manual_seed(5)
    prompts = of_kind(kind, 300)
    images = render([sample_scene(prompt, generator) for prompt in prompts])
    wrong = [corrupt(prompt, generator) for prompt in prompts]
    # Measured on 1000 scenes of every kind: 1.000 and 0.000.
    assert check(images, prompts).float().mean() >= 0.995
    assert check(images, wrong).float().mean() <= 0.01


@pytest.mark.parametrize("kind", PROMPT_KINDS)
def test_scenes_hold_exactly_what_is_asked(kind: str) -> None:
    generator = torch.Generator().manual_seed(6)
    for prompt in of_kind(kind, 60):
        shapes = sample_scene(prompt, generator).shapes
        wanted = prompt.objects * prompt.count
        assert [shape.kind for shape in shapes] == [thing.kind for thing in wanted]
        for shape, thing in zip(shapes, wanted, strict=True):
            assert thing.colour in (None, shape.colour)


def test_free_attributes_vary() -> None:
    generator = torch.Generator().manual_seed(7)
    scenes = [sample_scene(parse("four circles"), generator) for _ in range(200)]
    colours = Counter(shape.colour for scene in scenes for shape in scene.shapes)
    assert set(colours) == set(COLOURS) and min(colours.values()) > 80
    for scene in scenes:
        assert all(8 <= shape.radius <= 11 for shape in scene.shapes)
    assert len({scene.background for scene in scenes}) == len(scenes)


@pytest.mark.parametrize(
    ("relation", "axis", "sign"),
    [("left of", "x", -1), ("right of", "x", 1), ("above", "y", -1), ("below", "y", 1)],
)
def test_relations_separate_the_boxes_along_their_axis(relation: str, axis: str, sign: int) -> None:
    generator = torch.Generator().manual_seed(8)
    prompt = parse(f"a circle {relation} a square")
    for _ in range(50):
        first, second = sample_scene(prompt, generator).shapes
        along = sign * (getattr(first, axis) - getattr(second, axis))
        assert along >= first.radius + second.radius + 3


def test_draws_are_a_pure_function_of_the_generator() -> None:
    def draw() -> list[object]:
        generator = torch.Generator().manual_seed(9)
        prompts = all_prompts()[::97]
        return [(sample_scene(p, generator), corrupt(p, generator)) for p in prompts]

    assert draw() == draw()


def test_every_shape_takes_a_part() -> None:
    assert {thing.kind for prompt in all_prompts() for thing in prompt.objects} == set(KINDS)
