"""A backbone's streamed gradient against the joint graph's, with guidance and without."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
import torch
from torch import Tensor, nn

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

from .comparing import assert_gradients_close
from .oracle import joint_read


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
    plan = Bridge(active=2).draw(trajectory.sigmas, torch.Generator().manual_seed(0))
    x = read(plan, trajectory)
    g = torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x)
    for detached in (False,) if branches.scale == 1 else (False, True):
        joint = _joint(params, branches.field(detached=detached), trajectory, plan, g)
        if not any(bool(each.any()) for each in joint.values()):
            raise AssertionError(
                "`velocity` must depend on the trainable parameters, got no gradient"
            )
        streamed = _streamed(params, branches.pull(detached=detached), trajectory, plan, g)
        assert_gradients_close("streamed gradient", streamed, joint, tolerance)


def _joint(
    params: Mapping[str, nn.Parameter],
    field: VelocityField,
    trajectory: Trajectory,
    plan: Surrogate,
    cotangent: Tensor,
) -> dict[str, Tensor]:
    with torch.enable_grad():
        value = (joint_read(field, trajectory, plan) * cotangent).sum()
    gradients = torch.autograd.grad(
        value, list(params.values()), allow_unused=True, materialize_grads=True
    )
    return dict(zip(params, gradients, strict=True))


def _streamed(
    params: Mapping[str, nn.Parameter],
    pull: Pull,
    trajectory: Trajectory,
    plan: Surrogate,
    cotangent: Tensor,
) -> dict[str, Tensor]:
    kept = {name: parameter.grad for name, parameter in params.items()}
    try:
        for parameter in params.values():
            parameter.grad = None
        sweep(plan, trajectory, cotangent, pull)
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
