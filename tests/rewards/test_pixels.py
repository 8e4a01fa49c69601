"""Resizing and normalising."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from flowbp.rewards import (
    crop_shortest_side,
    crop_shortest_side_torchvision,
    normalise,
    pad_longest_side,
    stretch,
)

RESIZES = [stretch, crop_shortest_side, crop_shortest_side_torchvision, pad_longest_side]


def pictures(height, width, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(2, 3, height, width, generator=generator, dtype=dtype)


def bicubic(images, height, width):
    return F.interpolate(images, (height, width), mode="bicubic", antialias=True)


@pytest.mark.parametrize("resize", RESIZES)
def test_pictures_of_the_right_size_pass_untouched(resize):
    images = pictures(8, 8)
    assert torch.equal(resize(images, 8), images)


@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize(("height", "width"), [(8, 8), (5, 13), (31, 12), (3, 3)])
def test_the_result_is_the_wanted_square(resize, height, width):
    assert resize(pictures(height, width), 8).shape == (2, 3, 8, 8)


@pytest.mark.parametrize("resize", [stretch, pad_longest_side])
@pytest.mark.parametrize(("height", "width"), [(32, 32), (20, 33)])
def test_every_pixel_gets_a_gradient(resize, height, width):
    images = pictures(height, width, torch.float64).requires_grad_(True)
    cotangent = pictures(8, 8, torch.float64)
    (gradient,) = torch.autograd.grad(resize(images, 8), images, cotangent)
    assert (gradient != 0).all()


def test_stretch_resizes_both_sides():
    images = pictures(20, 33)
    assert torch.equal(stretch(images, 8), bicubic(images, 8, 8))


def test_crop_takes_the_centre():
    images = pictures(20, 33)
    assert torch.equal(crop_shortest_side(images, 8), bicubic(images, 8, 13)[..., 2:10])
    assert torch.equal(crop_shortest_side(images.mT, 8), bicubic(images.mT, 13, 8)[..., 2:10, :])


@pytest.mark.parametrize(
    ("resize", "offsets"),
    [
        (crop_shortest_side, {8: 0, 9: 0, 10: 1, 11: 1, 13: 2, 15: 3}),
        (crop_shortest_side_torchvision, {8: 0, 9: 0, 10: 1, 11: 2, 13: 2, 15: 4}),
    ],
)
def test_the_offset_of_the_centre_is_that_of_the_library_it_is_of(resize, offsets):
    """Worked out by hand from `(side - size) // 2` and `int(round((side - size) / 2.0))`."""
    for side, offset in offsets.items():
        wide = pictures(8, side)
        assert torch.equal(resize(wide, 8), wide[..., offset : offset + 8])
        assert torch.equal(resize(wide.mT, 8), wide.mT[..., offset : offset + 8, :])


@pytest.mark.parametrize(
    ("resize", "offset"), [(crop_shortest_side, 51), (crop_shortest_side_torchvision, 52)]
)
def test_an_aspect_ratio_of_sdxl_tells_the_two_crops_apart(resize, offset):
    images = pictures(832, 1216)
    whole = bicubic(images, 224, 1216 * 224 // 832)
    assert torch.equal(resize(images, 224), whole[..., offset : offset + 224])


def test_pad_puts_the_extra_pixel_right_or_below():
    images = pictures(20, 33)
    padded = pad_longest_side(images, 8)
    assert torch.equal(padded[..., 1:6, :], bicubic(images, 5, 8))
    assert not padded[..., :1, :].any() and not padded[..., 6:, :].any()
    padded = pad_longest_side(images.mT, 8)
    assert not padded[..., :1].any() and not padded[..., 6:].any()


def test_normalising_is_per_channel():
    images = pictures(2, 2)
    normal = normalise(images, (0.1, 0.2, 0.3), (1.0, 2.0, 4.0))
    assert torch.allclose(normal[:, 2], (images[:, 2] - 0.3) / 4)
    assert torch.allclose(normal[:, 0], images[:, 0] - 0.1)
