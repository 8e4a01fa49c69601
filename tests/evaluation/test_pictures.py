from __future__ import annotations

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from flowbp.evaluation import grid, labelled_png, read_png, upscale
from flowbp.evaluation.pictures import data_uri, png


def decoded(content: bytes) -> Tensor:
    return torch.from_numpy(np.array(Image.open(io.BytesIO(content)))).permute(2, 0, 1)


def from_uri(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def test_png_decodes_to_the_same_levels() -> None:
    levels = torch.randint(0, 256, (3, 5, 7), generator=torch.Generator().manual_seed(0))
    assert torch.equal(decoded(png(levels / 255)).long(), levels)


def test_png_rounds_to_the_nearest_level_and_clamps() -> None:
    image = torch.tensor([-0.5, 0.4 / 255, 0.6 / 255, 1.5]).expand(3, 1, 4)
    assert decoded(png(image))[0, 0].tolist() == [0, 0, 1, 255]


def test_png_takes_half_precision_and_gradients() -> None:
    image = torch.full((3, 2, 2), 0.5, dtype=torch.bfloat16, requires_grad=True)
    assert decoded(png(image)).unique().tolist() == [128]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.zeros(1, 3, 4, 4), r"shape \(3, H, W\), got \(1, 3, 4, 4\)"),
        (torch.zeros(1, 4, 4), r"got \(1, 4, 4\)"),
        (torch.full((3, 2, 2), float("nan")), "not finite"),
    ],
)
def test_png_refuses(image: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        png(image)


def test_upscale_repeats_pixels() -> None:
    image = torch.arange(6.0).view(1, 2, 3)
    assert upscale(image, 2)[0].tolist() == [
        [0, 0, 1, 1, 2, 2],
        [0, 0, 1, 1, 2, 2],
        [3, 3, 4, 4, 5, 5],
        [3, 3, 4, 4, 5, 5],
    ]
    with pytest.raises(ValueError, match="`factor` must be a whole number of at least 1, got 0"):
        upscale(image, 0)


def test_grid_places_pictures_row_by_row() -> None:
    images = torch.linspace(0, 1, 5).view(5, 1, 1, 1).expand(5, 3, 2, 4)
    sheet = grid(images, columns=3, gap=1)
    assert sheet.shape == (3, 7, 16)
    for i in range(5):
        top, left = 1 + i // 3 * 3, 1 + i % 3 * 5
        assert (sheet[:, top : top + 2, left : left + 4] == images[i]).all()
    assert (sheet[:, 4:6, 11:15] == 0.5).all()
    assert grid(images).shape == (3, 2 * 4 + 2, 3 * 6 + 2)


def test_grid_refuses() -> None:
    with pytest.raises(ValueError, match="`images` is empty"):
        grid(torch.zeros(0, 3, 2, 2))
    with pytest.raises(ValueError, match="`columns` must be at least 1, got 0"):
        grid(torch.zeros(1, 3, 2, 2), columns=0)


def test_tiny_pictures_are_embedded_exactly_and_large_ones_as_thumbnails() -> None:
    levels = torch.randint(0, 256, (3, 64, 64), generator=torch.Generator().manual_seed(0))
    tiny = from_uri(data_uri(levels / 255))
    assert tiny.format == "PNG"
    assert np.array_equal(np.array(tiny), levels.permute(1, 2, 0).numpy())
    large = from_uri(data_uri(torch.full((3, 512, 256), 0.25), largest=128))
    assert (large.format, large.size) == ("JPEG", (64, 128))
    assert from_uri(data_uri(torch.zeros(3, 200, 300))).size == (300, 200)


def test_a_png_is_whole_or_refused() -> None:
    image = torch.randint(0, 256, (3, 9, 7), generator=torch.Generator().manual_seed(0)) / 255
    texts = {"prompt": "a ‘red’ ○\nand two lines", "seed": "3"}
    content = labelled_png(image, texts)
    back, found = read_png(content)
    assert (back - image).abs().max() < 1e-6 and found == texts
    for length in range(len(content)):
        with pytest.raises(ValueError, match="is no whole PNG"):
            read_png(content[:length])
    for place in range(8, len(content), 5):
        damaged = bytearray(content)
        damaged[place] ^= 255
        with pytest.raises(ValueError, match="is no whole PNG"):
            read_png(bytes(damaged))
    for more in (b"\0", content):
        with pytest.raises(ValueError, match="bytes follow its end"):
            read_png(content + more)
