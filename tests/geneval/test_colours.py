"""The colour classifier against its formula written out, and the object on grey."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from flowbp.geneval import COLOURS, Colours, Detection, cut_out
from flowbp.rewards import ClipReward
from flowbp.shapes.embedded import reward_folder


@pytest.fixture(scope="module")
def clip():
    return ClipReward.from_pretrained(reward_folder())


def picture(seed=0):
    return torch.rand(3, 20, 24, generator=torch.Generator().manual_seed(seed))


@given(st.data())
def test_an_object_is_cut_out_pixel_by_pixel(data):
    left, top = data.draw(st.integers(0, 22)), data.draw(st.integers(0, 18))
    right, bottom = data.draw(st.integers(left + 1, 24)), data.draw(st.integers(top + 1, 20))
    mask = torch.rand(20, 24, generator=torch.Generator().manual_seed(left)) > 0.5
    found = cut_out(picture(), Detection("dog", 0.9, (left, top, right, bottom), mask))
    assert found.shape == (3, bottom - top, right - left)
    for y in range(top, bottom):
        for x in range(left, right):
            wanted = picture()[:, y, x] if mask[y, x] else torch.full((3,), 153 / 255)
            assert torch.equal(found[:, y - top, x - left], wanted)


@pytest.mark.parametrize("name", ["dog", "orange"])
def test_the_nearest_description_decides(clip, name):
    colours = Colours(clip)
    for seed in range(6):
        image = picture(seed)
        mask = torch.zeros(20, 24, dtype=torch.bool)
        mask[3:15, 4 : 10 + seed] = True
        detection = Detection(name, 0.9, (4, 3, 10 + seed, 15), mask)
        seen = clip.embed_images(cut_out(image, detection)[None])[0]
        scores = {}
        for colour in COLOURS:
            texts = [
                f"a photo of a {colour} {name}",
                f"a photo of a {colour}-colored {name}",
                f"a photo of a {colour} object",
            ]
            mean = sum(clip.embed_prompts([text])[0] for text in texts) / 3
            scores[colour] = float(F.cosine_similarity(seen, mean, dim=0))
        assert colours(image, detection) == max(scores, key=scores.get)


class Palette:
    """A CLIP that sees the mean of a picture and reads the colour's name."""

    device = torch.device("cpu")
    paint = torch.tensor(
        [
            *([1, 0, 0], [1, 0.5, 0], [1, 1, 0], [0, 1, 0], [0, 0, 1]),
            *([0.5, 0, 0.5], [1, 0.6, 0.8], [0.5, 0.3, 0.1], [0.01, 0.01, 0.01], [1, 1, 1]),
        ]
    )

    def __init__(self):
        self.read = []

    def embed_images(self, images):
        return F.normalize(images.mean((2, 3)) - 0.4, dim=-1)

    def embed_prompts(self, prompts):
        self.read += prompts
        words = [next(c for c in COLOURS if f"a {c}" in prompt) for prompt in prompts]
        return F.normalize(self.paint[[COLOURS.index(word) for word in words]] - 0.4, dim=-1)


@pytest.mark.parametrize("colour", COLOURS)
def test_painted_objects_are_named(colour):
    clip = Palette()
    colours = Colours(clip)
    image = clip.paint[COLOURS.index(colour)][:, None, None].expand(3, 8, 8)
    assert colours(image, Detection("dog", 0.9, (0, 0, 8, 8))) == colour
    colours(image, Detection("dog", 0.9, (2, 2, 4, 4)))
    # Each class is described once.
    assert len(clip.read) == 30
