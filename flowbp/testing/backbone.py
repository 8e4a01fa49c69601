"""Conformance of backbones: what they state, draw, evaluate and write."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from flowbp.adapters import Backbone
from flowbp.core import rollout

from .assertions import assert_close, assert_finite, assert_same_shape
from .backbone_gradients import (
    Branches,
    check_decode_gradient,
    check_images,
    check_streamed_gradient,
)


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


def check_protocol(backbone: Backbone) -> None:
    """Assert that every attribute and method of the protocol is there."""
    if not isinstance(backbone, Backbone):
        names = [name for name in vars(Backbone) if not name.startswith("_")]
        missing = [name for name in names if not hasattr(backbone, name)]
        raise AssertionError(
            f"a backbone must have {', '.join(missing)}, got a {type(backbone).__name__} without; "
            "see flowbp.adapters.Backbone"
        )
    if not isinstance(backbone.device, torch.device):
        raise AssertionError(
            f"`device` must be a torch.device, got {backbone.device!r}; wrap it in torch.device(…)"
        )


def check_saving(backbone: Backbone) -> None:
    """Assert that saving into an empty folder writes something and changes no parameter."""
    before = {name: p.detach().clone() for name, p in backbone.trainable().items()}
    with TemporaryDirectory() as name:
        folder = Path(name)
        backbone.save(folder)
        if not any(path.is_file() and path.stat().st_size for path in folder.rglob("*")):
            raise AssertionError(
                "`save` must write the model into the folder it is given, got no file there"
            )
    after = backbone.trainable()
    changed = [n for n, p in before.items() if n not in after or not torch.equal(after[n], p)]
    if changed:
        raise AssertionError(f"`save` must leave the parameters alone, but {changed[0]!r} changed")


def check_noise(
    backbone: Backbone,
    count: int,
    height: int,
    width: int,
    seed: int,
    *,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Assert that noise is a function of its generator, of this dtype; returned on the device."""

    def draw(number: int) -> Tensor:
        generator = torch.Generator().manual_seed(number)
        return backbone.noise(count, height=height, width=width, generator=generator)

    state = torch.random.get_rng_state()
    noise, again, other = draw(seed), draw(seed), draw(seed + 1)
    if noise.ndim < 1 or noise.shape[0] != count:
        raise AssertionError(f"`noise` must hold {count} samples, got shape {tuple(noise.shape)}")
    if noise.dtype != dtype:
        wanted = str(dtype).removeprefix("torch.")
        raise AssertionError(f"`noise` must be {wanted}, got {noise.dtype}")
    if not torch.equal(noise, again) or torch.equal(noise, other):
        raise AssertionError("`noise` must be a function of its generator, and of nothing else")
    if not torch.equal(torch.random.get_rng_state(), state):
        raise AssertionError("`noise` must use its generator only, but it advanced torch's own")
    assert_finite("noise", noise)
    return noise.to(backbone.device)


def check_sigmas(backbone: Backbone, steps: int, height: int, width: int) -> Tensor:
    """Assert that sigmas (N+1,) are a falling float32 grid on the CPU, at every call the same."""
    sigmas, again = (backbone.sigmas(steps, height=height, width=width) for _ in range(2))
    assert_same_shape("sigmas", sigmas, (steps + 1,))
    if sigmas.dtype != torch.float32 or sigmas.device.type != "cpu":
        raise AssertionError(
            f"`sigmas` must be float32 on the CPU, got {sigmas.dtype} on {sigmas.device}"
        )
    falling = bool((sigmas[1:] < sigmas[:-1]).all())
    if not falling or float(sigmas[0]) > 1 or float(sigmas[-1]) != 0:
        raise AssertionError(
            f"`sigmas` must fall from at most 1 to exactly 0, got {sigmas.tolist()}"
        )
    if not torch.equal(sigmas, again):
        raise AssertionError(
            f"`sigmas` must be the same at every call, got {sigmas.tolist()} and {again.tolist()}"
        )
    return sigmas


def check_trainable(backbone: Backbone) -> None:
    """Assert that what is trained belongs to the module and is unfrozen."""
    owned = dict(backbone.module.named_parameters())
    trainable = backbone.trainable()
    if not trainable:
        raise AssertionError("`trainable` must name at least one parameter, got none")
    for name, parameter in trainable.items():
        if owned.get(name) is not parameter:
            raise AssertionError(
                f"`trainable` must name parameters as `module` does, got {name!r}, which is not "
                "there or another tensor"
            )
        if not parameter.requires_grad:
            raise AssertionError(
                f"`trainable` parameters must require gradients, {name!r} does not"
            )
