from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from flowbp.shapes import (
    PROMPT_KINDS,
    VOCABULARY,
    Prompt,
    Wanted,
    all_prompts,
    heldout_prompts,
    is_held_out,
    parse,
    training_prompts,
)

CIRCLE, SQUARE = Wanted("circle"), Wanted("square")


def words(prompts: tuple[Prompt, ...]) -> set[str]:
    return {word for prompt in prompts for word in prompt.text.split()}


def test_texts_are_distinct_and_parse_is_their_inverse() -> None:
    texts = [prompt.text for prompt in all_prompts()]
    assert len(set(texts)) == len(texts)
    assert all(parse(prompt.text) == prompt for prompt in all_prompts())


@pytest.mark.parametrize(
    "text",
    [
        "a circle",
        "a circle and a square",
        "three circles",
        "two blue squares",
        "four crosses",
        "a blue circle",
        "a circle left of a square",
        "a green triangle above a yellow circle",
        "a red circle and a blue square",
        "a picture of a white cross",
        "there are two crosses",
    ],
)
def test_the_issues_examples_are_in_the_world(text: str) -> None:
    assert parse(text).text == text


def test_what_a_caption_asks_is_read() -> None:
    assert parse("two blue squares") == Prompt("counting", (Wanted("square", "blue"),), count=2)
    prompt = parse("a picture of a circle below a square")
    assert (prompt.kind, prompt.objects, prompt.relation) == (
        "position",
        (CIRCLE, SQUARE),
        "below",
    )


@pytest.mark.parametrize("text", ["", "A circle", "a photo of a dog", "five circles", "a circle "])
def test_other_texts_are_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="`text` must be a caption") as caught:
        parse(text)
    assert repr(text) in str(caught.value) and "two blue squares" in str(caught.value)


def test_the_vocabulary_is_every_word_used() -> None:
    assert tuple(sorted(words(all_prompts()))) == VOCABULARY


def test_the_split_is_disjoint_complete_and_large_enough() -> None:
    held, training = set(heldout_prompts()), set(training_prompts())
    assert not held & training and held | training == set(all_prompts())
    assert all(is_held_out(prompt) for prompt in held)
    sizes = Counter(prompt.kind for prompt in all_prompts())
    for kind, count in Counter(prompt.kind for prompt in held).items():
        assert count >= 4 and 0.12 < count / sizes[kind] < 0.18, kind
    assert {prompt.kind for prompt in held} == set(PROMPT_KINDS)


def test_no_training_prompt_says_a_held_out_position_binding_or_count_in_other_words() -> None:
    # A picture that satisfies one prompt by construction shows its meaning: count and objects,
    # or under a relation the objects from left to right or from top to bottom.
    def meaning(prompt: Prompt) -> object:
        if prompt.relation is None:
            return sorted(map(str, prompt.objects)), prompt.count
        first, second = prompt.objects
        if prompt.relation in ("right of", "below"):
            first, second = second, first
        return first, second, prompt.relation in ("left of", "right of")

    kinds = ("counting", "position", "color_attr")
    known = [meaning(prompt) for prompt in training_prompts() if prompt.kind in kinds]
    held = [meaning(prompt) for prompt in heldout_prompts() if prompt.kind in kinds]
    assert len(held) > 600 and not any(each in known for each in held)


def test_training_knows_every_held_out_word_in_its_kind() -> None:
    for kind in PROMPT_KINDS:
        known = words(tuple(p for p in training_prompts() if p.kind == kind))
        assert words(tuple(p for p in heldout_prompts() if p.kind == kind)) <= known


def test_the_split_never_moves() -> None:
    singles = [prompt.text for prompt in heldout_prompts() if prompt.kind == "single_object"]
    assert singles == [
        "a circle",
        "there is one square",
        "an image of a triangle",
        "a drawing of a triangle",
        "a drawing of one triangle",
        "there is one triangle",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("texture", (CIRCLE,)), "`kind`.*'texture'"),
        (("single_object", (CIRCLE, SQUARE)), "`objects` must hold 1"),
        (("single_object", (Wanted("circle", "red"),)), "no colour"),
        (("two_object", (CIRCLE, CIRCLE)), "different shapes"),
        (("counting", (CIRCLE,)), "`count`.*got 1"),
        (("counting", (CIRCLE,), 5), "`count`.*got 5"),
        (("single_object", (CIRCLE,), 2), "`count`.*got 2"),
        (("position", (CIRCLE, SQUARE)), "`relation`.*None"),
        (("position", (CIRCLE, SQUARE), 1, "behind"), "`relation`.*'behind'"),
        (("two_object", (CIRCLE, SQUARE), 1, "above"), "`relation`.*'above'"),
        (("position", (CIRCLE, Wanted("square", "red")), 1, "above"), "both colours or none"),
        (("colors", (CIRCLE,)), "each name a colour"),
        (("color_attr", (Wanted("circle", "red"), Wanted("square", "red"))), "different colours"),
        (("single_object", (CIRCLE,), 1, None, "my {}"), "`template`.*'my {}'"),
    ],
)
def test_illegal_prompts_are_refused(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Prompt(*arguments)


def test_illegal_objects_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`kind`.*'star'"):
        Wanted("star")
    with pytest.raises(ValueError, match=r"`colour`.*'pink'"):
        Wanted("circle", "pink")
