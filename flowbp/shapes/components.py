"""Connected components of label maps, in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor


def connected_components(classes: Tensor) -> Tensor:
    """Number the connected regions of equal class, edge neighbours only.

    Every pixel takes the largest pixel number among its neighbours of the same class and follows
    that pixel's own label, until nothing changes.

    Args:
        classes: (B, H, W) integers; negative is background and belongs to no region.

    Returns:
        (B, H, W) int64: the largest row-major pixel number of the pixel's region, or −1.

    Example:
        >>> connected_components(torch.tensor([[[0, 0, -1], [1, 0, 1]]]))
        tensor([[[ 4,  4, -1],
                 [ 3,  4,  5]]])
    """
    batch, height, width = classes.shape
    numbers = torch.arange(height * width, device=classes.device)
    labels = numbers.view(1, height, width).repeat(batch, 1, 1)
    occupied = classes >= 0
    across = (classes[:, :, 1:] == classes[:, :, :-1]) & occupied[:, :, 1:]
    down = (classes[:, 1:] == classes[:, :-1]) & occupied[:, 1:]
    settled = False
    while not settled:
        before = labels.clone()
        _share(labels[:, :, :-1], labels[:, :, 1:], across)
        _share(labels[:, :-1], labels[:, 1:], down)
        labels = labels.flatten(1).gather(1, labels.flatten(1)).view_as(labels)
        settled = torch.equal(labels, before)
    return labels.where(occupied, -1)


def _share(one: Tensor, other: Tensor, joined: Tensor) -> None:
    # The two overlap in memory, so the second must see what the first has written.
    one.copy_(torch.maximum(one, other).where(joined, one))
    other.copy_(torch.maximum(one, other).where(joined, other))
