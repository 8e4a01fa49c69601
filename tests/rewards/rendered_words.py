"""Pictures of words, drawn in the font that comes with matplotlib."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

WORDS = ("OPEN", "Coffee", "bookkeeper", "KITTEN", "Python")


def asking(words=WORDS):
    """A prompt for each word."""
    return [f'a sign that says "{word}"' for word in words]


def drawn(word, *, height=64, margin=12, ink=(160, 30, 40), paper=(240, 240, 220)) -> Tensor:
    """A word in a picture (3, height, W) in [0, 1], whose width fits it."""
    path = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    font = ImageFont.truetype(path, round(height * 0.65))
    left, top, right, bottom = font.getbbox(word)
    picture = Image.new("RGB", (round(right - left) + 2 * margin, height), paper)
    place = (margin - left, (height - (bottom - top)) / 2 - top)
    ImageDraw.Draw(picture).text(place, word, font=font, fill=ink)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255
