"""Picture tensors as files: single ones, grids and thumbnails."""

from __future__ import annotations

import base64
import io
import math
import struct
import zlib
from collections.abc import Mapping
from typing import Any, Literal

import torch
from PIL import Image, PngImagePlugin
from torch import Tensor
from torch.nn import functional

TINY = 128
"""Pictures of at most this many pixels a side are kept to the pixel, never resampled."""

_END = b"\0\0\0\0IEND\xaeB`\x82"
"""The chunk that ends every PNG."""


def upscale(images: Tensor, factor: int) -> Tensor:
    """Repeat every pixel `factor` times in both directions."""
    if factor < 1:
        raise ValueError(f"`factor` must be a whole number of at least 1, got {factor}")
    return images.repeat_interleave(factor, -2).repeat_interleave(factor, -1)


def png(image: Tensor) -> bytes:
    """Encode one picture as PNG; every pixel is rounded to the nearest of 256 levels."""
    return _encoded(image, "PNG", optimize=True)


def labelled_png(image: Tensor, texts: Mapping[str, str]) -> bytes:
    """Encode one picture as PNG with texts in it, which `read_png` and other programs show."""
    info = PngImagePlugin.PngInfo()
    for keyword, text in texts.items():
        info.add_itxt(keyword, text)
    # Not optimised: that takes seconds for a large picture, and saves a few per cent.
    return _encoded(image, "PNG", pnginfo=info)


def read_png(content: bytes) -> tuple[Tensor, dict[str, str]]:
    """Read a picture that `labelled_png` or `png` encoded."""
    stream = io.BytesIO(content)
    try:
        with Image.open(stream, formats=["PNG"]) as picture:
            # Loading overlooks a missing end, what follows it, and wrong checksums of texts.
            picture.verify()
        # Where the checksum of the last chunk begins.
        if stream.tell() != len(content) - 4 or not content.endswith(_END):
            raise ValueError("bytes follow its end")
        with Image.open(io.BytesIO(content), formats=["PNG"]) as picture:
            picture.load()
            mode, (width, height), data = picture.mode, picture.size, picture.tobytes()
            info = picture.info.items()
            texts = {str(key): str(each) for key, each in info if isinstance(each, str)}
    # A damaged file makes Pillow raise whatever it comes upon.
    except (OSError, SyntaxError, ValueError, struct.error, EOFError, zlib.error) as error:
        raise ValueError(f"`content` is no whole PNG ({type(error).__name__}: {error})") from error
    if mode != "RGB":
        raise ValueError(f"`content` must be a PNG in RGB, got the mode {mode}; convert it")
    levels = torch.frombuffer(bytearray(data), dtype=torch.uint8).view(height, width, 3)
    return levels.permute(2, 0, 1).float() / 255, texts


def grid(images: Tensor, *, columns: int | None = None, gap: int = 2) -> Tensor:
    """Lay pictures out in rows, first to last, on a grey ground."""
    count = len(images)
    if count == 0:
        raise ValueError("`images` is empty; a grid needs at least one picture")
    columns = math.ceil(math.sqrt(count)) if columns is None else columns
    if columns < 1:
        raise ValueError(f"`columns` must be at least 1, got {columns}; None picks a number")
    rows = math.ceil(count / columns)
    height, width = images.shape[-2:]
    sheet = images.new_full((3, rows * (height + gap) + gap, columns * (width + gap) + gap), 0.5)
    for i, image in enumerate(images):
        top, left = gap + i // columns * (height + gap), gap + i % columns * (width + gap)
        sheet[:, top : top + height, left : left + width] = image
    return sheet


def data_uri(image: Tensor, *, largest: int = 384) -> str:
    """One picture as a `data:` address: exact if it is tiny, else a JPEG thumbnail."""
    longest, subtype = max(image.shape[-2:]), "jpeg"
    if longest <= TINY:
        subtype, content = "png", png(image)
    else:
        if longest > largest:
            height, width = (max(1, round(side * largest / longest)) for side in image.shape[-2:])
            image = functional.interpolate(
                image[None].float(), (height, width), mode="bicubic", antialias=True
            )[0]
        content = _encoded(image, "JPEG", optimize=True, quality=90)
    return f"data:image/{subtype};base64,{base64.b64encode(content).decode()}"


def _encoded(image: Tensor, form: Literal["PNG", "JPEG"], **options: Any) -> bytes:
    if image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(
            f"`image` must have the shape (3, H, W), got {tuple(image.shape)}; index a batch first"
        )
    if not torch.isfinite(image).all():
        raise ValueError("`image` has pixels that are not finite; a file cannot hold them")
    levels = (image.detach().float().clamp(0, 1) * 255).round().to(torch.uint8)
    picture = Image.fromarray(levels.permute(1, 2, 0).contiguous().cpu().numpy())
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()
