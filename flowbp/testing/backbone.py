"""Conformance of backbones: what they state, draw, evaluate, decode and write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

from flowbp.adapters import Backbone, rescale_of
from flowbp.core import (
    Bridge,
    Pull,
    Surrogate,
    Trajectory,
    VelocityField,
    guided_pull,
    guided_velocity,
    module_pull,
    rollout,
    sweep,
)

from .assertions import assert_close, assert_finite, assert_gradients_close, assert_same_shape
from .methods import accumulated
from .oracle import gradients_of, joint_read
from .velocity import check_velocity_field


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
    if len(prompts) < 2 or steps < 2:
        raise ValueError(
            f"`prompts` and `steps` must be at least 2, got {len(prompts)} prompts, {steps} steps"
        )
    _check_protocol(backbone)
    noise = check_noise(backbone, len(prompts), height, width, seed, dtype=dtype)
    sigmas = _check_sigmas(backbone, steps, height, width)
    _check_trainable(backbone)
    _check_saving(backbone)
    positive = negative = _check_velocity(backbone, prompts, noise, sigmas[0], tolerance)
    if guidance != 1:
        negative = backbone.velocity(backbone.encode([""]).repeat(len(prompts)))
    rescale = rescale_of(backbone)
    guided = guided_velocity(positive, negative, guidance, rescale=rescale)
    trajectory = rollout(guided, noise, sigmas)
    assert_finite("sample", trajectory.sample)
    generator = torch.Generator().manual_seed(seed)
    _check_images(backbone, trajectory.sample, (height, width), tolerance)
    _check_decode_gradient(backbone, trajectory.sample, generator, difference_tolerance, step)
    surrogate = Bridge(active=2).draw(sigmas, torch.Generator().manual_seed(0))
    g = torch.randn(noise.shape, generator=generator, dtype=torch.float64).to(noise)
    for detached in (False,) if guidance == 1 else (False, True):
        opposite = torch.no_grad()(negative) if detached else negative
        field = guided_velocity(positive, opposite, guidance, rescale=rescale)
        pull = module_pull(field)
        if rescale is None:
            branch = None if detached else module_pull(negative)
            pull = guided_pull(module_pull(positive), branch, guidance)
        _check_streamed(backbone.trainable(), field, pull, trajectory, surrogate, g, tolerance)


def _check_protocol(backbone: Backbone) -> None:
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


def _check_sigmas(backbone: Backbone, steps: int, height: int, width: int) -> Tensor:
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


def _check_trainable(backbone: Backbone) -> None:
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


def _check_saving(backbone: Backbone) -> None:
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


def _check_velocity(
    backbone: Backbone, prompts: Sequence[str], noise: Tensor, sigma: Tensor, tolerance: float
) -> VelocityField:
    conditioning = backbone.encode(prompts)
    if len(conditioning) != len(prompts):
        raise AssertionError(
            f"`encode` must return one row per prompt, got {len(conditioning)} for {len(prompts)}"
        )
    field = backbone.velocity(conditioning)
    check_velocity_field(lambda _, x, level: field(x, level), {}, noise, sigma)
    with torch.no_grad():
        rows = [
            backbone.velocity(conditioning[b : b + 1])(noise[b : b + 1], sigma)
            for b in range(len(prompts))
        ]
        v = field(noise, sigma)
    assert_close("velocity of slices of the conditioning", torch.cat(rows), v, tolerance)
    return field


def _check_images(
    backbone: Backbone, latents: Tensor, size: tuple[int, int], tolerance: float
) -> None:
    with torch.no_grad():
        images = backbone.decode(latents)
        rows = [backbone.decode(latents[b : b + 1]) for b in range(latents.shape[0])]
    # Those of videos have frames in between.
    assert_same_shape("images", images, (latents.shape[0], 3, *images.shape[2:-2], *size))
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
    params: Mapping[str, nn.Parameter],
    field: VelocityField,
    pull: Pull,
    trajectory: Trajectory,
    surrogate: Surrogate,
    g: Tensor,
    tolerance: float,
) -> None:
    with torch.enable_grad():
        value = (joint_read(field, trajectory, surrogate) * g).sum()
    joint = gradients_of(value, params)
    if not any(bool(each.any()) for each in joint.values()):
        raise AssertionError("`velocity` must depend on the trainable parameters, got no gradient")
    kept = {name: parameter.grad for name, parameter in params.items()}
    try:
        for parameter in params.values():
            parameter.grad = None
        sweep(surrogate, trajectory, g, pull)
        streamed = accumulated(params)
    finally:
        for name, parameter in params.items():
            parameter.grad = kept[name]
    assert_gradients_close("streamed gradient", streamed, joint, tolerance)
