"""Pictures as patches: what Qwen2-VL's own processor makes of them, with a gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
    Qwen2VLImageProcessorPil,
    smart_resize,
)

from flowbp.rewards.pixels import (
    CLIP_MEAN,
    CLIP_STD,
    budgeted_size,
    fit_budget,
    normalise,
    patches,
)

BUDGET = 256 * 28 * 28


def processed(picture, pixels):
    """Patches and grid by transformers, from 8-bit values."""
    processor = Qwen2VLImageProcessorPil(min_pixels=pixels, max_pixels=pixels)
    output = processor(Image.fromarray(picture), return_tensors="pt")
    return output["pixel_values"], output["image_grid_thw"]


def ours(picture, pixels, dtype):
    images = torch.tensor(picture, dtype=dtype).permute(2, 0, 1)[None] / 255
    images = normalise(fit_budget(images, pixels=pixels, multiple=28), CLIP_MEAN, CLIP_STD)
    return patches(images, patch=14, merge=2, frames=2)


def test_sizes_are_those_of_transformers():
    for height in range(28, 2100, 61):
        for width in range(30, 2100, 47):
            expected = smart_resize(height, width, 28, BUDGET, BUDGET)
            assert budgeted_size(height, width, pixels=BUDGET, multiple=28) == expected


def test_a_ribbon_is_refused():
    with pytest.raises(ValueError, match="a ratio up to 200, got 10x2010"):
        budgeted_size(10, 2010, pixels=BUDGET, multiple=28)


@pytest.mark.parametrize("size", [(448, 448), (224, 896)])
def test_patches_without_resizing_are_those_of_transformers(size):
    picture = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    expected, grid = processed(picture, BUDGET)
    assert grid.tolist() == [[1, size[0] // 14, size[1] // 14]]
    exact = ours(picture, BUDGET, torch.float64)
    assert exact.shape == expected.shape
    assert (exact - expected).abs().max() <= 1e-6


@pytest.mark.parametrize("size", [(512, 512), (300, 200), (1024, 768)])
def test_patches_with_resizing_differ_by_the_rounding_to_8_bits(size):
    smooth = np.random.default_rng(0).integers(60, 196, (9, 9, 3), dtype=np.uint8)
    picture = np.asarray(Image.fromarray(smooth).resize(size[::-1], Image.Resampling.BICUBIC))
    expected, grid = processed(picture, BUDGET)
    found = ours(picture, BUDGET, torch.float32)
    assert len(found) == grid.prod()
    # In steps of 8 bits; PIL rounds twice, after each direction.
    assert (found - expected).abs().max() <= 1.5 / 255 / min(CLIP_STD)
    assert (found - expected).abs().mean() <= 0.3 / 255 / min(CLIP_STD)


def test_a_picture_of_the_right_size_passes_through_untouched():
    images = torch.rand(2, 3, 56, 84)
    assert fit_budget(images, pixels=56 * 84, multiple=28) is images


def test_every_pixel_gets_its_gradient():
    images = torch.rand(1, 3, 600, 700, requires_grad=True)
    patches(
        fit_budget(images, pixels=BUDGET, multiple=28), patch=14, merge=2, frames=2
    ).sum().backward()
    assert (images.grad > 0).all()
