from __future__ import annotations

import pytest
import torch

from flowbp.shapes import Prompt, all_prompts, is_held_out, parse, training_prompts
from tools.shapes.corruption import corrupt, near_misses


def of_kind(kind: str, count: int) -> list[Prompt]:
    prompts = [prompt for prompt in all_prompts() if prompt.kind == kind]
    return [prompts[index * len(prompts) // count] for index in range(count)]


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
        options = [wrong for attribute in near_misses(prompt).values() for wrong in attribute]
        assert options and prompt not in options
        assert is_held_out(prompt) or not any(map(is_held_out, options))
