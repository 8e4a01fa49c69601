"""Conformance of a backbone's gradients: the decoder's, and the streamed one of its velocity."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
import torch
from torch import Tensor, nn

from flowbp.adapters import Backbone
from flowbp.core import (
    Bridge,
    Pull,
    Surrogate,
    Trajectory,
    VelocityField,
    guided_pull,
    guided_velocity,
    module_pull,
    read,
    sweep,
)

from .assertions import assert_close, assert_finite, assert_gradients_close, assert_same_shape
from .oracle import joint_read


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


@attrs.frozen(eq=False)
class Branches:
    """The two fields of classifier-free guidance; with scale 1 the negative one is not called."""

    positive: VelocityField
    negative: VelocityField
    scale: float

    def field(self, *, detached: bool) -> VelocityField:
        """The guided field, which has a gradient through the negative branch or has none."""
        negative = _without_gradient(self.negative) if detached else self.negative
        return guided_velocity(self.positive, negative, self.scale)

    def pull(self, *, detached: bool) -> Pull:
        """The pull of that field, of one branch at a time."""
        negative = None if detached else module_pull(self.negative)
        return guided_pull(module_pull(self.positive), negative, self.scale)


def check_streamed_gradient(
    params: Mapping[str, nn.Parameter],
    branches: Branches,
    trajectory: Trajectory,
    generator: torch.Generator,
    tolerance: float,
) -> None:
    """Assert that the streamed gradient is the joint graph's; `.grad` is left as it was."""
    surrogate = Bridge(active=2).draw(trajectory.sigmas, torch.Generator().manual_seed(0))
    x = read(surrogate, trajectory)
    g = torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x)
    for detached in (False,) if branches.scale == 1 else (False, True):
        joint = _joint(params, branches.field(detached=detached), trajectory, surrogate, g)
        if not any(bool(each.any()) for each in joint.values()):
            raise AssertionError(
                "`velocity` must depend on the trainable parameters, got no gradient"
            )
        streamed = _streamed(params, branches.pull(detached=detached), trajectory, surrogate, g)
        assert_gradients_close("streamed gradient", streamed, joint, tolerance)


def _joint(
    params: Mapping[str, nn.Parameter],
    field: VelocityField,
    trajectory: Trajectory,
    surrogate: Surrogate,
    cotangent: Tensor,
) -> dict[str, Tensor]:
    with torch.enable_grad():
        value = (joint_read(field, trajectory, surrogate) * cotangent).sum()
    gradients = torch.autograd.grad(
        value, list(params.values()), allow_unused=True, materialize_grads=True
    )
    return dict(zip(params, gradients, strict=True))


def _streamed(
    params: Mapping[str, nn.Parameter],
    pull: Pull,
    trajectory: Trajectory,
    surrogate: Surrogate,
    cotangent: Tensor,
) -> dict[str, Tensor]:
    kept = {name: parameter.grad for name, parameter in params.items()}
    try:
        for parameter in params.values():
            parameter.grad = None
        sweep(surrogate, trajectory, cotangent, pull)
        return {
            name: torch.zeros_like(each) if each.grad is None else each.grad
            for name, each in params.items()
        }
    finally:
        for name, parameter in params.items():
            parameter.grad = kept[name]


def _without_gradient(velocity: VelocityField) -> VelocityField:
    @torch.no_grad()
    def detached(latents: Tensor, sigma: Tensor, /) -> Tensor:
        return velocity(latents, sigma)

    return detached
