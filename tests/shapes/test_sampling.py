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
    corrupt,
    is_held_out,
    parse,
    render,
    sample_scene,
    training_prompts,
)
from flowbp.shapes.corruption import near_misses


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


def differences(one: Prompt, other: Prompt) -> set[str]:
    changed = set()
    if [thing.kind for thing in one.objects] != [thing.kind for thing in other.objects]:
        changed.add("shape")
    if [thing.colour for thing in one.objects] != [thing.colour for thing in other.objects]:
        changed.add("colour")
    if one.count != other.count:
        changed.add("count")
    if one.relation != other.relation:
        changed.add("relation")
    return changed


@pytest.mark.parametrize(
    ("kind", "attributes"),
    [
        ("single_object", {"shape"}),
        ("two_object", {"shape"}),
        ("counting", {"shape", "colour", "count"}),
        ("colors", {"shape", "colour"}),
        ("position", {"shape", "colour", "relation"}),
        ("color_attr", {"shape", "colour"}),
    ],
)
def test_a_corruption_changes_one_attribute_and_every_one_occurs(
    kind: str, attributes: set[str]
) -> None:
    generator = torch.Generator().manual_seed(10)
    seen: set[str] = set()
    for prompt in of_kind(kind, 200):
        wrong = corrupt(prompt, generator)
        changed = differences(prompt, wrong)
        assert len(changed) == 1 and wrong.template == prompt.template
        assert parse(wrong.text) == wrong
        seen |= changed
    assert seen == attributes


def test_swapped_colours_and_opposite_relations_occur() -> None:
    generator = torch.Generator().manual_seed(11)
    bound = parse("a red circle and a blue square")
    assert "a blue circle and a red square" in {corrupt(bound, generator).text for _ in range(99)}
    placed = parse("a circle left of a square")
    relations = {corrupt(placed, generator).relation for _ in range(99)}
    assert relations == {"left of", "right of"}


def test_corrupted_training_captions_are_training_captions() -> None:
    generator = torch.Generator().manual_seed(12)
    assert not any(is_held_out(corrupt(prompt, generator)) for prompt in training_prompts())


def test_every_caption_has_near_misses_and_training_ones_have_none_held_out() -> None:
    for prompt in all_prompts():
        options = [wrong for attribute in near_misses(prompt) for wrong in attribute]
        assert options and prompt not in options
        assert is_held_out(prompt) or not any(map(is_held_out, options))


def test_every_shape_takes_a_part() -> None:
    assert {thing.kind for prompt in all_prompts() for thing in prompt.objects} == set(KINDS)
