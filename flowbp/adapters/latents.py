"""Latents: of which sizes of pictures, and in which patches."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

from flowbp.validators import integer


@attrs.frozen
class PictureSizes:
    """The sides, in pixels, of the pictures that a model can draw.

    Args:
        multiple: Of which both sides are: pixels per patch along one side.
        largest: The longest side the positional embedding covers; None has no bound.
    """

    multiple: int = attrs.field(validator=integer(1))
    largest: int | None = attrs.field(default=None, validator=attrs.validators.optional(integer(1)))

    def fault(self, side: int) -> str | None:
        """What is wrong with a side, and the nearest legal ones; None if nothing is."""
        must = f"must be a positive multiple of {self.multiple}, got {side}"
        if side < self.multiple:
            return f"{must}; the nearest is {self.multiple}"
        if side % self.multiple:
            below = side - side % self.multiple
            return f"{must}; the nearest are {below} and {below + self.multiple}"
        if self.largest is not None and side > self.largest:
            return (
                f"must be at most {self.largest}, the reach of the positional embedding, got {side}"
            )
        return None

    def check(self, *, height: int, width: int) -> None:
        """Refuse a picture that does not divide into latents and patches, or is too large."""
        for name, side in (("height", height), ("width", width)):
            fault = self.fault(side)
            if fault is not None:
                raise ValueError(f"`{name}` {fault}")


PATCH = 2
"""Latents of the VAE along one side of a patch, in every FLUX pipeline."""


def patchify(latents: Tensor) -> Tensor:
    """(B, C, h, w) to (B, 4C, h/2, w/2): channel, row and column of a patch, in this order."""
    return torch.nn.functional.pixel_unshuffle(latents, PATCH)


def unpatchify(patches: Tensor) -> Tensor:
    """(B, 4C, h, w) to (B, C, 2h, 2w): undoes `patchify`."""
    return torch.nn.functional.pixel_shuffle(patches, PATCH)


def to_sequence(patches: Tensor) -> Tensor:
    """Patches (B, D, h, w) row by row, (B, h w, D)."""
    return patches.flatten(2).transpose(1, 2)


def from_sequence(sequence: Tensor, rows: int) -> Tensor:
    """(B, h w, D) to (B, D, h, w): undoes `to_sequence`."""
    count, _, channels = sequence.shape
    return sequence.transpose(1, 2).reshape(count, channels, rows, -1)


def grid_ids(rows: int, columns: int, *, axes: int, device: torch.device) -> Tensor:
    """Positions (h w, axes) of patches: row on axis 1, column on axis 2, 0 on the others."""
    ids = torch.zeros(rows, columns, axes, device=device)
    ids[..., 1] = torch.arange(rows, device=device)[:, None]
    ids[..., 2] = torch.arange(columns, device=device)
    return ids.flatten(0, 1)
