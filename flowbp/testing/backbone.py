"""Conformance of backbones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from flowbp.adapters import Backbone
from flowbp.core import (
    Bridge,
    Trajectory,
    VelocityField,
    module_pull,
    read,
    rollout,
    sweep,
)

from .backbone_parts import (
    check_noise,
    check_protocol,
    check_saving,
    check_sigmas,
    check_trainable,
)
from .comparing import assert_close, assert_finite, assert_gradients_close, assert_same_shape
from .oracle import joint_read


def check_backbone(
    backbone: Backbone,
    prompts: Sequence[str],
    *,
    height: int,
    width: int,
    steps: int = 4,
    tolerance: float = 1e-4,
    difference_tolerance: float = 5e-2,
    step: float = 1e-2,
    seed: int = 0,
) -> None:
    """Assert that a backbone keeps the protocol that training and evaluation rely on.

    Nothing of the protocol is missing; the noise is a function of its generator; the sigmas are a
    float32 grid on the CPU from 1 to 0; saving writes files and changes no parameter; a slice of
    the conditioning gives that slice of the velocity; the velocity is deterministic; trainable
    parameters belong to the module and are unfrozen; decoding gives images in [0, 1], one sample
    like many, with a gradient that agrees with central differences where no pixel is saturated; the
    streamed gradient is the joint graph's. Parameters and their `.grad` are left as they were.

    Args:
        backbone: to be checked; small, for it is run a few dozen times.
        prompts: B >= 2 prompts.
        height: of the images, in pixels.
        width: of the images, in pixels.
        steps: N >= 2 of the trajectory.
        tolerance: between batches, and of streamed against joint gradients, relative.
        difference_tolerance: of the decoder's gradient against differences, relative.
        step: of those differences, in units of the latents.
        seed: of noise, draws and directions.

    Raises:
        AssertionError: says what does not hold.

    Example:
        >>> from types import SimpleNamespace
        >>> from flowbp.adapters import Conditioning
        >>> module = torch.nn.Linear(4, 4)
        >>> def lengths(prompts):
        ...     return Conditioning({"n": torch.tensor([[float(len(p))] for p in prompts])})
        >>> def noise(count, *, height, width, generator):
        ...     return torch.randn(count, 4, generator=generator)
        >>> backbone = SimpleNamespace(
        ...     module=module,
        ...     device=torch.device("cpu"),
        ...     trainable=lambda: dict(module.named_parameters()),
        ...     encode=lengths,
        ...     noise=noise,
        ...     sigmas=lambda steps, *, height, width: torch.linspace(1, 0, steps + 1),
        ...     velocity=lambda given: lambda x, sigma: module(x).tanh() * given.tensors["n"],
        ...     decode=lambda x: x.sigmoid().reshape(-1, 1, 2, 2).expand(-1, 3, 2, 2),
        ...     save=lambda folder: torch.save(module.state_dict(), folder / "linear.pt"),
        ... )
        >>> check_backbone(backbone, ["a", "bb"], height=2, width=2)

    Reference: none.
    """
    if len(prompts) < 2 or steps < 2:
        raise ValueError(
            f"`prompts` and `steps` must be at least 2, got {len(prompts)} prompts, {steps} steps"
        )
    check_protocol(backbone)
    noise = check_noise(backbone, len(prompts), height, width, seed)
    sigmas = backbone.sigmas(steps, height=height, width=width)
    check_sigmas(sigmas, steps)
    check_trainable(backbone)
    check_saving(backbone)
    field = _check_velocity(backbone, prompts, noise, sigmas[0], tolerance)
    trajectory = rollout(field, noise, sigmas)
    assert_finite("sample", trajectory.sample)
    generator = torch.Generator().manual_seed(seed)
    _check_images(backbone, trajectory.sample, (height, width), tolerance)
    _check_decode_gradient(backbone, trajectory.sample, generator, difference_tolerance, step)
    _check_streamed(backbone, field, trajectory, generator, tolerance)


def _check_velocity(
    backbone: Backbone, prompts: Sequence[str], noise: Tensor, sigma: Tensor, tolerance: float
) -> VelocityField:
    conditioning = backbone.encode(prompts)
    if len(conditioning) != len(prompts):
        raise AssertionError(
            f"`encode` must return one row per prompt, got {len(conditioning)} for {len(prompts)}"
        )
    field = backbone.velocity(conditioning)
    with torch.no_grad():
        v, again = field(noise, sigma), field(noise, sigma)
        rows = [
            backbone.velocity(conditioning[b : b + 1])(noise[b : b + 1], sigma)
            for b in range(len(prompts))
        ]
    assert_same_shape("velocity", v, tuple(noise.shape))
    assert_finite("velocity", v)
    if not torch.equal(v, again):
        raise AssertionError(
            "`velocity` must be deterministic, got two values from one input; "
            "put the module in eval mode"
        )
    assert_close("velocity of slices of the conditioning", torch.cat(rows), v, tolerance)
    return field


def _check_images(
    backbone: Backbone, latents: Tensor, size: tuple[int, int], tolerance: float
) -> None:
    with torch.no_grad():
        images = backbone.decode(latents)
        rows = [backbone.decode(latents[b : b + 1]) for b in range(latents.shape[0])]
    assert_same_shape("images", images, (latents.shape[0], 3, *size))
    low, high = images.min().item(), images.max().item()
    if not (low >= 0 and high <= 1):
        raise AssertionError(f"`decode` must give images in [0, 1], got [{low:g}, {high:g}]")
    assert_close("images decoded one at a time", torch.cat(rows), images, tolerance)


def _check_decode_gradient(
    backbone: Backbone,
    latents: Tensor,
    generator: torch.Generator,
    tolerance: float,
    step: float,
) -> None:
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


def _check_streamed(
    backbone: Backbone,
    field: VelocityField,
    trajectory: Trajectory,
    generator: torch.Generator,
    tolerance: float,
) -> None:
    params = backbone.trainable()
    plan = Bridge(active=2).draw(trajectory.sigmas, torch.Generator().manual_seed(0))
    x = read(plan, trajectory)
    g = torch.randn(x.shape, generator=generator).to(x)
    with torch.enable_grad():
        value = (joint_read(field, trajectory, plan) * g).sum()
    joint = torch.autograd.grad(
        value, list(params.values()), allow_unused=True, materialize_grads=True
    )
    kept = {name: parameter.grad for name, parameter in params.items()}
    for parameter in params.values():
        parameter.grad = None
    sweep(plan, trajectory, g, module_pull(field))
    streamed = {
        name: torch.zeros_like(each) if each.grad is None else each.grad
        for name, each in params.items()
    }
    for name, parameter in params.items():
        parameter.grad = kept[name]
    if not any(bool(each.any()) for each in joint):
        raise AssertionError("`velocity` must depend on the trainable parameters, got no gradient")
    assert_gradients_close(
        "streamed gradient", streamed, dict(zip(params, joint, strict=True)), tolerance
    )
