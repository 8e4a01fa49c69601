"""How decoded pixels are brought into [0, 1]: the choice decides what saturated pixels learn."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor


class Clamp(Protocol):
    """Maps decoded pixels of any range to [0, 1], element by element."""

    def __call__(self, images: Tensor) -> Tensor:
        """Images of any range to images of the same shape in [0, 1]."""
        ...


def hard_clamp(images: Tensor) -> Tensor:
    """Clamp to [0, 1]; a pixel outside gets no gradient. The published behaviour.

    Args:
        images: Any shape.

    Returns:
        The same shape, in [0, 1].

    Example:
        >>> hard_clamp(torch.tensor([-1.0, 0.5, 2.0]))
        tensor([0.0000, 0.5000, 1.0000])
    """
    return images.clamp(0.0, 1.0)


def returning_clamp(images: Tensor) -> Tensor:
    """Clamp to [0, 1]; a pixel outside keeps the part of its gradient that leads back inside.

    With g the gradient of a loss that is minimised, a descent step moves a pixel by -g. Above 1
    only g > 0 is kept, below 0 only g < 0; inside, everything.

    Args:
        images: Any shape.

    Returns:
        The same shape and the same values as `hard_clamp`.

    Example:
        >>> images = torch.tensor([-1.0, 0.5, 2.0], requires_grad=True)
        >>> returning_clamp(images).sum().backward()
        >>> images.grad
        tensor([0., 1., 1.])
    """
    clamped: Tensor = _ReturningClamp.apply(images)  # type: ignore[no-untyped-call]
    return clamped


class _ReturningClamp(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(images: Tensor) -> Tensor:
        return images.clamp(0.0, 1.0)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (images,), (gradient,) = ctx.saved_tensors, gradients
        leaves = ((images > 1.0) & (gradient < 0.0)) | ((images < 0.0) & (gradient > 0.0))
        return gradient.masked_fill(leaves, 0.0)
