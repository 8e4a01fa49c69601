"""A batch worked off in portions."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from flowbp.core import VelocityField


def portions(count: int, size: int) -> Iterator[slice]:
    """Slices of at most `size` that cover `count` samples in order.

    Args:
        count: how many samples there are.
        size: how many a slice may hold, at least 1.

    Yields:
        Slices without open ends.

    Raises:
        ValueError: `size` is below 1.

    Example:
        >>> list(portions(5, 2))
        [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    if size < 1:
        raise ValueError(f"`size` must be >= 1 samples, got {size}")
    for first in range(0, count, size):
        yield slice(first, min(first + size, count))


def velocity_in_portions(velocity_of: Callable[[slice], VelocityField], size: int) -> VelocityField:
    """A field that evaluates a batch in portions of at most `size` samples.

    Args:
        velocity_of: the field of a slice of samples, with that slice's conditioning.
        size: samples at a time, at least 1.

    Returns:
        The field of the whole batch, (B, …) to (B, …).

    Raises:
        ValueError: `size` is below 1.

    Example:
        >>> scale = torch.tensor([[1.0], [2.0], [3.0]])
        >>> field = velocity_in_portions(lambda s: lambda x, sigma: scale[s] * x, 2)
        >>> field(torch.ones(3, 1), torch.tensor(1.0)).flatten()
        tensor([1., 2., 3.])
    """

    def velocity(latents: Tensor, sigma: Tensor, /) -> Tensor:
        return torch.cat(
            [velocity_of(part)(latents[part], sigma) for part in portions(len(latents), size)]
        )

    return velocity
