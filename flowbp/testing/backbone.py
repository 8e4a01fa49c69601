"""Conformance of backbones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from flowbp.adapters import Backbone
from flowbp.core import rollout

from .backbone_decode import check_decode_gradient, check_images
from .backbone_gradient import Branches, check_streamed_gradient
from .backbone_parts import (
    check_noise,
    check_protocol,
    check_saving,
    check_sigmas,
    check_trainable,
)
from .comparing import assert_close, assert_finite, assert_same_shape


def check_backbone(
    backbone: Backbone,
    prompts: Sequence[str],
    *,
    height: int,
    width: int,
    steps: int = 4,
    guidance: float = 1.0,
    dtype: torch.dtype = torch.float32,
    tolerance: float = 1e-4,
    difference_tolerance: float = 5e-2,
    step: float = 1e-2,
    seed: int = 0,
) -> None:
    """Assert that a backbone keeps the protocol that training and evaluation rely on.

    Nothing of the protocol is missing; noise and sigmas are reproducible; saving writes files and
    changes no parameter; a slice of the conditioning gives that slice of the velocity, which is
    deterministic; what is trained belongs to the module; images are in [0, 1], one sample like
    many, with a gradient that agrees with central differences where no pixel is saturated; the
    streamed gradient is the joint graph's. Parameters and their `.grad` are left as they were.

    Args:
        backbone: to be checked; small, for it is run a few dozen times.
        prompts: B >= 2 prompts.
        height: of the images, in pixels.
        width: of the images, in pixels.
        steps: N >= 2 of the trajectory.
        guidance: scale of classifier-free guidance against the empty prompt; 1 is none.
        dtype: of latents; float64 for a backbone in float64, where tolerances can be tight.
        tolerance: between batches, and of streamed against joint gradients, relative.
        difference_tolerance: of the decoder's gradient against differences, relative.
        step: of those differences, in units of the latents.
        seed: of noise, draws and directions.

    Raises:
        AssertionError: says what does not hold.

    Example:
        >>> from flowbp.shapes.embedded import embedded_backbone
        >>> prompts = ["a red circle", "a blue square"]
        >>> check_backbone(embedded_backbone(), prompts, height=32, width=32, step=1e-4)
    """
    _check_counts(prompts, steps)
    check_protocol(backbone)
    noise = check_noise(backbone, len(prompts), height, width, seed, dtype=dtype)
    sigmas = check_sigmas(backbone, steps, height, width)
    check_trainable(backbone)
    check_saving(backbone)
    branches = _branches(backbone, prompts, guidance)
    _check_velocity(backbone, prompts, noise, sigmas[0], tolerance)
    trajectory = rollout(branches.field(detached=False), noise, sigmas)
    assert_finite("sample", trajectory.sample)
    generator = torch.Generator().manual_seed(seed)
    check_images(backbone, trajectory.sample, (height, width), tolerance)
    check_decode_gradient(backbone, trajectory.sample, generator, difference_tolerance, step)
    check_streamed_gradient(backbone.trainable(), branches, trajectory, generator, tolerance)


def _check_counts(prompts: Sequence[str], steps: int) -> None:
    if len(prompts) < 2 or steps < 2:
        raise ValueError(
            f"`prompts` and `steps` must be at least 2, got {len(prompts)} prompts, {steps} steps"
        )


def _branches(backbone: Backbone, prompts: Sequence[str], guidance: float) -> Branches:
    positive = backbone.velocity(backbone.encode(prompts))
    if guidance == 1:
        return Branches(positive, positive, guidance)
    empty = backbone.encode([""]).repeat(len(prompts))
    return Branches(positive, backbone.velocity(empty), guidance)


def _check_velocity(
    backbone: Backbone, prompts: Sequence[str], noise: Tensor, sigma: Tensor, tolerance: float
) -> None:
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
    if v.dtype != noise.dtype:
        raise AssertionError(
            f"`velocity` must return the latents' dtype {noise.dtype}, got {v.dtype}; "
            "cast at its end"
        )
    assert_finite("velocity", v)
    if not torch.equal(v, again):
        raise AssertionError(
            "`velocity` must be deterministic, got two values from one input; "
            "put the module in eval mode"
        )
    assert_close("velocity of slices of the conditioning", torch.cat(rows), v, tolerance)
