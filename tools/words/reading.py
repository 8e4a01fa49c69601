"""What the recogniser of the reward reads, as a judge."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from flowbp.rewards.words import EasyOCR, quoted_text


def read_by_easyocr(images: Tensor, prompts: Sequence[str]) -> Tensor:
    """1 where EasyOCR reads just what a prompt quotes in its picture, else 0, of (B, 3, H, W)."""
    wanted = [quoted_text(prompt) for prompt in prompts]
    found = EasyOCR().read(images)
    return torch.tensor([one == other for one, other in zip(found, wanted, strict=True)]).double()
