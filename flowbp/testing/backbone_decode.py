"""A backbone's decoder: images in range, samples apart from each other, a true gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from flowbp.adapters import Backbone

from .comparing import assert_close, assert_finite, assert_same_shape


def check_images(
    backbone: Backbone, latents: Tensor, size: tuple[int, int], tolerance: float
) -> None:
    """Assert that images (B, 3, H, W) are in [0, 1] and that samples do not mix."""
    with torch.no_grad():
        images = backbone.decode(latents)
        rows = [backbone.decode(latents[b : b + 1]) for b in range(latents.shape[0])]
    assert_same_shape("images", images, (latents.shape[0], 3, *size))
    low, high = images.min().item(), images.max().item()
    if not (low >= 0 and high <= 1):
        raise AssertionError(f"`decode` must give images in [0, 1], got [{low:g}, {high:g}]")
    assert_close("images decoded one at a time", torch.cat(rows), images, tolerance)


def check_decode_gradient(
    backbone: Backbone,
    latents: Tensor,
    generator: torch.Generator,
    tolerance: float,
    step: float,
) -> None:
    """Assert that decoding's gradient agrees with central differences at unsaturated pixels."""
    x = latents.detach().clone().requires_grad_()
    with torch.enable_grad():
        images = backbone.decode(x)
    if not images.requires_grad:
        raise AssertionError("`decode` must be differentiable in the latents, got no graph")
    inside = ((images > 0.05) & (images < 0.95)).detach()
    if not bool(inside.any()):
        raise AssertionError("`decode` saturates every pixel of a sample: no gradient to compare")
    weight = torch.randn(images.shape, generator=generator).to(images) * inside
    (gradient,) = torch.autograd.grad((images * weight).sum(), x)
    assert_finite("gradient of decode", gradient)
    direction = torch.randn(latents.shape, generator=generator).to(latents)
    # Part of it along the gradient, so that the derivative stands out of the rounding.
    direction = direction + gradient * direction.norm() / gradient.norm().clamp(min=1e-30)
    with torch.no_grad():
        up, down = (backbone.decode(latents + s * step * direction).double() for s in (1, -1))
    expected = ((up - down) * weight.double()).sum() / (2 * step)
    actual = (gradient.double() * direction.double()).sum()
    assert_close("gradient of decode", actual, expected, tolerance)
