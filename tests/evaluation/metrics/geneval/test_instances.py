"""The detector's post-processing and preparation, each against one written pixel by pixel."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flowbp.evaluation.metrics.geneval.detector import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Sizes,
    eight_bits,
    instances,
    prepare,
    shown_size,
)
from flowbp.evaluation.metrics.geneval.task import CLASSES


def weights(small, large):
    """The matrix of bilinear resizing along one side: two neighbours of each centre."""
    matrix = torch.zeros(large, small, dtype=torch.float64)
    for i in range(large):
        at = min(max((i + 0.5) * small / large - 0.5, 0.0), small - 1.0)
        low = math.floor(at)
        matrix[i, low] += 1 - (at - low)
        matrix[i, min(low + 1, small - 1)] += at - low
    return matrix


def resized(picture, height, width):
    rows, columns = weights(picture.shape[0], height), weights(picture.shape[1], width)
    return rows @ picture.double() @ columns.T


def by_hand(class_logits, mask_logits, sizes, above, most):
    """Each pair of query and class on its own, sorted last."""
    found = []
    pairs = []
    for query, logits in enumerate(class_logits.double()):
        total = sum(math.exp(value) for value in logits.tolist())
        pairs += [
            (math.exp(value) / total, query, name)
            for value, name in zip(logits.tolist(), CLASSES, strict=False)
        ]
    for p, query, name in sorted(pairs, key=lambda pair: -pair[0])[:most]:
        mask = resized(mask_logits[query], *sizes.padded)
        mask = resized(mask[: sizes.shown[0], : sizes.shown[1]], *sizes.original)
        inside = [
            (y, x, 1 / (1 + math.exp(-value)))
            for y, row in enumerate(mask.tolist())
            for x, value in enumerate(row)
            if value > 0
        ]
        if not inside:
            continue
        score = p * sum(sure for *_, sure in inside) / (len(inside) + 1e-6)
        if score > above:
            ys, xs = [y for y, *_ in inside], [x for _, x, _ in inside]
            box = (min(xs), min(ys), max(xs) + 1, max(ys) + 1)
            found.append((name, score, box, {(y, x) for y, x, _ in inside}))
    return sorted(found, key=lambda each: -each[1])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("most", [100, 5])
def test_instances_are_those_found_by_hand(seed, most):
    generator = torch.Generator().manual_seed(seed)
    classes = 4 * torch.randn(6, 81, generator=generator)
    masks = 3 * torch.randn(6, 4, 5, generator=generator)
    masks[0] = -1
    sizes = Sizes(padded=(16, 20), shown=(13, 20), original=(9, 14))
    found = instances(classes, masks, sizes, above=0.02, most=most)
    wanted = by_hand(classes, masks, sizes, 0.02, most)
    assert [each.name for each in found] == [name for name, *_ in wanted]
    assert [each.box for each in found] == [box for *_, box, _ in wanted]
    for each, (_, score, _, pixels) in zip(found, wanted, strict=True):
        assert each.score == pytest.approx(score, abs=1e-6)
        assert {tuple(place) for place in each.mask.nonzero().tolist()} == pixels
    assert len(found) > 2


def test_no_object_and_empty_masks_give_nothing():
    classes = torch.zeros(2, 81)
    classes[0, 80], classes[1, 3] = 20, 20
    masks = torch.stack([torch.ones(4, 4), -torch.ones(4, 4)])
    sizes = Sizes(padded=(8, 8), shown=(8, 8), original=(8, 8))
    assert instances(classes, masks, sizes) == ()
    assert instances(classes, masks[1:].expand(2, 4, 4), sizes, above=-1.0) == ()


@given(st.integers(1, 3000), st.integers(1, 3000))
def test_the_shown_size_is_the_largest_that_fits(height, width):
    rows, columns = shown_size(height, width)
    assert max(rows, columns) <= 1333 and min(rows, columns) <= 800
    assert max(rows, columns) == 1333 or min(rows, columns) == 800
    scale = rows / height if rows > columns else columns / width
    assert abs(rows - height * scale) <= 1 + scale and abs(columns - width * scale) <= 1 + scale


@pytest.mark.parametrize(("height", "width"), [(8, 8), (9, 5), (6, 20)])
def test_preparation_is_that_of_the_original_recipe(height, width):
    image = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))
    found = prepare(image)
    rows, columns = shown_size(height, width)
    assert found.shape[-2] % 32 == 0 and found.shape[-1] % 32 == 0
    assert found.shape[-2] - rows < 32 and found.shape[-1] - columns < 32
    for channel in range(3):
        wanted = resized(image[0, channel], rows, columns)
        # In levels of 0 to 255, as the recipe has it.
        mean, std = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
        wanted = (wanted * 255 - mean[channel]) / std[channel]
        assert (found[0, channel, :rows, :columns] - wanted).abs().max() < 1e-4
    assert found[..., rows:, :].eq(0).all() and found[..., columns:].eq(0).all()
    assert IMAGENET_MEAN[0] == pytest.approx(0.485) and IMAGENET_STD[2] == pytest.approx(0.225)


def test_eight_bits_are_those_of_the_file():
    levels = torch.arange(256) / 255
    assert torch.equal(eight_bits(levels), levels)
    assert torch.equal(eight_bits(levels + 0.4 / 255).mul(255).round(), torch.arange(256.0))
