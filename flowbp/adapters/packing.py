"""Pictures of latents as sequences of patches, the form that FLUX's transformers read."""

from __future__ import annotations

import torch
from torch import Tensor

PATCH = 2
"""Latents of the VAE along one side of a patch, in every FLUX pipeline."""


def patchify(latents: Tensor) -> Tensor:
    """Fold each 2x2 patch into channels: channel ``c``, row and column of the patch in this order.

    Args:
        latents: (B, C, h, w) of even h and w.

    Returns:
        (B, 4C, h/2, w/2).

    Example:
        >>> patchify(torch.arange(4.0).view(1, 1, 2, 2)).flatten()
        tensor([0., 1., 2., 3.])
    """
    return torch.nn.functional.pixel_unshuffle(latents, PATCH)


def unpatchify(patches: Tensor) -> Tensor:
    """Undo `patchify`.

    Args:
        patches: (B, 4C, h, w).

    Returns:
        (B, C, 2h, 2w).

    Example:
        >>> latents = torch.randn(2, 3, 4, 6)
        >>> torch.equal(unpatchify(patchify(latents)), latents)
        True
    """
    return torch.nn.functional.pixel_shuffle(patches, PATCH)


def to_sequence(patches: Tensor) -> Tensor:
    """Patches row by row.

    Args:
        patches: (B, D, h, w).

    Returns:
        (B, h w, D).

    Example:
        >>> to_sequence(torch.zeros(1, 8, 2, 3)).shape
        torch.Size([1, 6, 8])
    """
    return patches.flatten(2).transpose(1, 2)


def from_sequence(sequence: Tensor, rows: int) -> Tensor:
    """Undo `to_sequence`.

    Args:
        sequence: (B, h w, D).
        rows: h.

    Returns:
        (B, D, h, w).

    Example:
        >>> patches = torch.randn(1, 8, 2, 3)
        >>> torch.equal(from_sequence(to_sequence(patches), 2), patches)
        True
    """
    count, _, channels = sequence.shape
    return sequence.transpose(1, 2).reshape(count, channels, rows, -1)


def grid_ids(rows: int, columns: int, *, axes: int, device: torch.device) -> Tensor:
    """Positions of a picture's patches: row on axis 1, column on axis 2, 0 on the others.

    Args:
        rows: h.
        columns: w.
        axes: Of the rotary embedding.
        device: Where they are made, so that nothing is copied there.

    Returns:
        (h w, axes) float32, in the order of `to_sequence`.

    Example:
        >>> grid_ids(1, 2, axes=3, device=torch.device("cpu"))
        tensor([[0., 0., 0.],
                [0., 0., 1.]])
    """
    ids = torch.zeros(rows, columns, axes, device=device)
    ids[..., 1] = torch.arange(rows, device=device)[:, None]
    ids[..., 2] = torch.arange(columns, device=device)
    return ids.flatten(0, 1)
