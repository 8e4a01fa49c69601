from __future__ import annotations

import pytest
import torch

from flowbp.shapes import COLOURS, Scene, Shape, ShapesChecker, check, parse, render

# Where the hand-made scenes put their shapes.
LEFT, RIGHT, TOP, BOTTOM = (16.0, 32.0), (48.0, 32.0), (32.0, 16.0), (32.0, 48.0)
CORNERS = ((15.0, 15.0), (49.0, 15.0), (15.0, 49.0), (49.0, 49.0))


def scene(*things: tuple[str, tuple[float, float]], radius: float = 9.0) -> Scene:
    shapes = []
    for name, place in things:
        colour, kind = name.split()
        shapes.append(Shape(kind, colour, *place, radius))
    return Scene(tuple(shapes), background=0.12)


def row(*names: str) -> Scene:
    return scene(*zip(names, CORNERS, strict=False))


RED_BLUE = row("red circle", "blue square")
BIG_RED_SMALL_BLUE = Scene(
    (Shape("circle", "red", 18.0, 32.0, 11.0), Shape("circle", "blue", 46.0, 32.0, 8.0)), 0.1
)
STEEP = scene(("red circle", (28.0, 14.0)), ("blue square", (36.0, 50.0)))

VERDICTS = [
    ("a circle", row("red circle"), True),
    ("a circle", row("white circle", "green square", "blue circle"), True),
    ("a circle", row("red square"), False),
    ("one triangle", row("red cross"), False),
    ("a circle and a square", RED_BLUE, True),
    ("a square and a circle", RED_BLUE, True),
    ("a circle and a square", row("red circle", "blue circle"), False),
    ("a circle and a triangle", RED_BLUE, False),
    ("three circles", row("red circle", "blue circle", "red circle"), True),
    ("three circles", row("red circle", "blue circle", "red circle", "white cross"), True),
    ("three circles", row("red circle", "blue circle"), False),
    ("three circles", row(*["white circle"] * 4), False),
    ("three circles", row("red circle", "blue circle", "red square"), False),
    ("two blue squares", row("blue square", "blue square"), True),
    ("two blue squares", row("blue square", "red square"), False),
    ("two blue squares", row("blue square", "blue square", "blue square"), False),
    ("a blue circle", row("blue circle"), True),
    ("a blue circle", row("purple circle"), False),
    ("a blue circle", row("blue square"), False),
    ("a red circle", BIG_RED_SMALL_BLUE, True),
    ("a blue circle", BIG_RED_SMALL_BLUE, False),
    ("a circle left of a square", scene(("red circle", LEFT), ("red square", RIGHT)), True),
    ("a circle left of a square", scene(("red circle", RIGHT), ("red square", LEFT)), False),
    ("a circle left of a square", scene(("red circle", TOP), ("red square", BOTTOM)), False),
    ("a circle right of a square", scene(("red circle", RIGHT), ("red square", LEFT)), True),
    ("a circle above a square", scene(("red circle", TOP), ("red square", BOTTOM)), True),
    ("a circle above a square", scene(("red circle", BOTTOM), ("red square", TOP)), False),
    ("a circle below a square", scene(("red circle", BOTTOM), ("red square", TOP)), True),
    ("a circle below a square", scene(("red circle", LEFT), ("red square", RIGHT)), False),
    ("a circle above a square", STEEP, True),
    ("a circle left of a square", STEEP, False),
    ("a circle left of a square", scene(("red circle", LEFT)), False),
    ("a red circle above a blue square", STEEP, True),
    ("a blue circle above a red square", STEEP, False),
    ("a red circle and a blue square", RED_BLUE, True),
    ("a blue circle and a red square", RED_BLUE, False),
    ("a red circle and a green square", RED_BLUE, False),
    ("a red circle and a blue square", row("red circle"), False),
]


@pytest.mark.parametrize(("text", "shown", "verdict"), VERDICTS)
def test_hand_made_scenes(text: str, shown: Scene, verdict: bool) -> None:
    assert ShapesChecker()(render([shown]), [text]).tolist() == [float(verdict)]


def test_a_batch_is_judged_as_its_members_are() -> None:
    images = render([shown for _, shown, _ in VERDICTS])
    prompts = [parse(text) for text, _, _ in VERDICTS]
    expected = [verdict for _, _, verdict in VERDICTS]
    assert check(images, prompts).tolist() == expected
    assert check(images.flip(0), prompts[::-1]).tolist() == expected[::-1]


def test_the_evaluator_returns_floats_without_a_graph() -> None:
    images = render([row(f"{colour} circle") for colour in COLOURS]).requires_grad_()
    scores = ShapesChecker()(images, ["a red circle"] * len(COLOURS))
    assert scores.dtype == torch.float32 and not scores.requires_grad
    assert scores.tolist() == [1, 0, 0, 0, 0, 0]


def test_faulty_calls_are_refused() -> None:
    images = torch.zeros(2, 3, 64, 64)
    with pytest.raises(ValueError, match=r"`prompts`.*2 images, got 1"):
        check(images, [parse("a circle")])
    with pytest.raises(ValueError, match=r"`text`.*'a dog'"):
        ShapesChecker()(images, ["a circle", "a dog"])
    with pytest.raises(ValueError, match=r"`images`.*\(2, 3, 32, 32\)"):
        ShapesChecker()(torch.zeros(2, 3, 32, 32), ["a circle", "a circle"])
    with pytest.raises(ValueError, match=r"`images`.*finite"):
        ShapesChecker()(images / 0, ["a circle", "a circle"])
