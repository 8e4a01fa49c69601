"""Flawed scenes, their scores, and the loss of a reward that is to grade between them."""

from __future__ import annotations

from collections import Counter
from random import Random

import attrs
import pytest
import torch

from flowbp.shapes import Scene, Shape, parse, sample_scene, training_prompts
from flowbp.shapes.prompts import PROMPT_KINDS
from flowbp.shapes.render import render
from flowbp.shapes.scene import KINDS, apart
from flowbp.shapes.scene_reading import read_scenes
from tools.shapes.corpus import draw_prompts
from tools.shapes.flaws import (
    MISSING,
    ONE_WRONG,
    SURPLUS,
    TOUCHING,
    TWO_WRONG,
    edited,
    flawed,
    shows,
)
from tools.shapes.graded_corpus import LAYOUT, layout
from tools.shapes.reward import grading_loss


@pytest.fixture(scope="module")
def drawn():
    generator = torch.Generator().manual_seed(0)
    prompts = draw_prompts(training_prompts(), 1200, generator)
    scenes = [sample_scene(prompt, generator) for prompt in prompts]
    return [
        (prompt, scene, flawed(scene, prompt, generator))
        for prompt, scene in zip(prompts, scenes, strict=True)
    ]


def test_a_flawed_scene_does_not_show_its_caption_unless_it_shows_too_much(drawn):
    for prompt, scene, flaw in drawn:
        assert shows(scene.shapes, prompt)
        if flaw.score == SURPLUS:
            assert len(flaw.scene.shapes) == len(scene.shapes) + 1
        elif flaw.blended is None and flaw.over is None:
            assert not flaw.shows(prompt), (prompt.text, flaw)


def test_a_surplus_object_may_be_of_any_kind_that_is_not_counted(drawn):
    kinds = {True: 0, False: 0}
    for prompt, _, flaw in drawn:
        if flaw.score == SURPLUS:
            added = flaw.scene.shapes[-1].kind
            named = added in {thing.kind for thing in prompt.objects}
            kinds[named] += 1
            if prompt.kind == "counting":
                assert not named, (prompt.text, added)
                assert flaw.shows(prompt)
    assert min(kinds.values()) > 20


def test_colours_between_two_of_the_palette_s_are_flaws_where_the_caption_leaves_them_open(drawn):
    scores = Counter()
    for prompt, scene, flaw in drawn:
        if flaw.blended is None:
            continue
        other, share = flaw.blended
        changed = [
            place
            for place, (one, two) in enumerate(zip(scene.shapes, other.shapes, strict=True))
            if one != two
        ]
        assert flaw.scene == scene and 0.3 <= share <= 0.7 and flaw.caption is None
        for place, (one, two) in enumerate(zip(scene.shapes, other.shapes, strict=True)):
            assert attrs.evolve(two, colour=one.colour) == one
            if place in changed:
                assert (prompt.objects * prompt.count)[place].colour is None
        assert flaw.score == (ONE_WRONG if len(changed) == 1 else TWO_WRONG) and changed
        scores[flaw.score] += 1
    assert min(scores[ONE_WRONG], scores[TWO_WRONG]) > 10


def test_the_checker_knows_no_colour_in_the_middle_between_two(drawn):
    blends = [flaw for _, _, flaw in drawn if flaw.blended]
    pairs = ((flaw.scene, flaw.blended[0]) for flaw in blends)
    ends = (render(scenes) for scenes in zip(*pairs, strict=True))
    pictures = torch.lerp(*ends, 0.5)
    odd = sum(reading.unknown > 0 for reading in read_scenes(pictures))
    assert odd > len(blends) / 2


def test_of_captions_with_a_relation_half_of_the_wrong_attributes_are_the_relation(drawn):
    wrong = [
        flaw.caption.relation != prompt.relation
        for prompt, _, flaw in drawn
        if prompt.kind == "position" and flaw.caption
    ]
    assert len(wrong) > 50 and sum(wrong) > len(wrong) / 2


def test_a_flawed_scene_shows_what_it_is_called(drawn):
    named = [(flaw.scene, flaw.caption) for _, _, flaw in drawn if flaw.caption]
    assert len(named) > 400 and all(shows(scene.shapes, caption) for scene, caption in named)


def test_of_shapes_that_touch_one_was_moved_and_nothing_else_changed(drawn):
    touching = [(prompt, scene, flaw) for prompt, scene, flaw in drawn if flaw.over]
    assert len(touching) > 40 and all(flaw.score == TOUCHING for _, _, flaw in touching)
    for prompt, scene, flaw in touching:
        assert flaw.shows(prompt) or prompt.kind == "position"
        assert flaw.caption is None
        (moved,) = flaw.over.shapes
        kept = [shape for shape in scene.shapes if shape not in flaw.scene.shapes]
        assert [attrs.evolve(each, x=moved.x, y=moved.y) for each in kept] == [moved]
        others = flaw.scene.shapes
        assert not all(apart(moved.x - s.x, moved.y - s.y, moved.radius + s.radius) for s in others)


def test_every_flaw_occurs_with_every_kind_of_prompt_that_can_have_it(drawn):
    seen = Counter((prompt.kind, flaw.score) for prompt, _, flaw in drawn)
    for kind in PROMPT_KINDS:
        assert seen[kind, ONE_WRONG] and seen[kind, SURPLUS], kind
    for kind in ("two_object", "position", "color_attr"):
        assert seen[kind, MISSING] and seen[kind, TWO_WRONG], kind


def test_an_edit_keeps_what_it_does_not_change():
    scene = Scene(
        (Shape("circle", "red", 16.0, 32.0, 9.0), Shape("square", "blue", 48.0, 32.0, 9.0)),
        background=0.1,
    )
    prompt, wanted = "a red circle and a blue square", "a red circle and a white square"
    changed = edited(scene, parse(prompt), parse(wanted), Random(0))
    assert changed.shapes[0] == scene.shapes[0] and changed.background == scene.background
    assert changed.shapes[1] == Shape("square", "white", 48.0, 32.0, 9.0)
    swapped = edited(
        scene, parse("a circle left of a square"), parse("a circle right of a square"), Random(0)
    )
    assert swapped.shapes[0] == Shape("circle", "red", 48.0, 32.0, 9.0)


def test_a_scene_shows_what_the_checker_accepts_of_its_largest_objects():
    shapes = [Shape("circle", "red", 16.0, 20.0, 8.0), Shape("square", "blue", 48.0, 20.0, 9.0)]
    larger = Shape("circle", "white", 32.0, 50.0, 10.0)
    one, two, more = (
        Scene(tuple(each), background=0.1) for each in (shapes[:1], shapes, [*shapes, larger])
    )
    assert shows(one.shapes, parse("a red circle"))
    assert not shows(one.shapes, parse("a circle and a square"))
    assert shows(two.shapes, parse("a circle left of a square"))
    assert not shows(two.shapes, parse("a circle right of a square"))
    assert not shows(more.shapes, parse("a red circle"))
    assert shows(more.shapes, parse("a white circle"))


def test_the_loss_of_grading_by_hand():
    cosines = torch.tensor([[0.5, 0.1, 0.9], [0.8, 0.35, 0.2]])
    scores = torch.tensor([[0.8, 0.35], [0.8, 0.35]])
    named, wrong = torch.tensor([False, True]), torch.tensor([[True], [True]])
    value = grading_loss(cosines, scores, named, wrong).item()
    assert value == pytest.approx((0.3**2 + (0.9 - ONE_WRONG) ** 2) / 2)


def test_layouts_of_a_scene_made_by_hand():
    scene = Scene(
        (
            Shape("circle", "red", 16.0, 48.0, 6.0),
            Shape("circle", "blue", 48.0, 48.0, 6.0),
            Shape("square", "red", 16.0, 24.0, 6.0),
        ),
        background=0.1,
    )
    numbers = torch.tensor(layout(scene)).reshape(-1, 3)
    assert numbers.numel() == LAYOUT
    circle, square = KINDS.index("circle"), KINDS.index("square")
    assert numbers[circle].tolist() == [2.0, 0.0, 2.0]
    assert numbers[square].tolist() == [1.0, -1.0, -0.5]
    coloured = numbers[len(KINDS) :]
    assert sorted(row for row in coloured.tolist() if row[0]) == [
        [1.0, -1.0, -0.5],
        [1.0, -1.0, 1.0],
        [1.0, 1.0, 1.0],
    ]
