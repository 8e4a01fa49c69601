"""Pictures that make a reward robust: worn, spoilt, broken and attacked ones."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, interpolate

from flowbp.shapes.scene import SIZE

_PIXEL_NOISE = 0.05
_LATENT_NOISE = 0.15
_BROKEN_NOISE = 0.6
_BROKEN_PART = (0.3, 0.7)
_BEND_COARSE, _BEND_FINE = 4.0, 1.5
_RADIUS = 0.15
_START = 0.3


def worn(latents: Tensor, generator: torch.Generator) -> Tensor:
    """Latents (B, C, h, w) with noise of a random strength.

    The reward will score decoded pictures; it must neither favour nor fear the decoder's traces.
    """
    return latents + _LATENT_NOISE * latents.std() * _noise(latents, generator)


def spoilt(pictures: Tensor, strength: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Pictures (B, 3, H, W) in [0, 1] with their shapes spoilt, and whether they fade, (B,) bool.

    A third each has its shapes bent, shaded with another colour, or faded into the background, by
    a `strength` (B,) in [0, 1]; at 1 faded shapes are gone. The others still have the attributes
    of their caption. A generator that climbs a reward which never saw such shapes ends in
    stretched, shaded and merging ones, because nothing is lost by them.
    """
    device, batch = pictures.device, len(pictures)
    amount = strength[:, None, None, None]
    kind = torch.randint(3, (batch, 1, 1, 1), generator=generator, device=device)
    ground = pictures[:, :, :1, :1]
    shape = ((pictures - ground).abs().amax(dim=1, keepdim=True) / 0.3).clamp(max=1)
    paint = torch.rand(batch, 3, 1, 1, generator=generator, device=device)
    wash = (3 * _smooth(batch, 1, 5, generator)).sigmoid()
    shaded = torch.lerp(pictures, paint, amount * shape * wash)
    faded = torch.lerp(pictures, ground, amount)
    spoilt_ones = torch.where(kind == 1, shaded, torch.where(kind == 2, faded, pictures))
    bent = _bent(pictures, amount, generator)
    return torch.where(kind == 0, bent, spoilt_ones), kind.flatten() == 2


def _bent(pictures: Tensor, amount: Tensor, generator: torch.Generator) -> Tensor:
    batch, _, height, width = pictures.shape
    shift = _BEND_COARSE * _smooth(batch, 2, 4, generator)
    shift += _BEND_FINE * _smooth(batch, 2, 9, generator)
    # From pixels to the picture's own coordinates, from -1 to 1.
    shift = amount * shift * 2 / torch.tensor([width, height], device=shift.device)[:, None, None]
    identity = torch.eye(2, 3, device=shift.device).expand(batch, 2, 3)
    grid = affine_grid(identity, list(pictures.shape), align_corners=False)
    places = grid + shift.permute(0, 2, 3, 1)
    return grid_sample(pictures, places, padding_mode="border", align_corners=False)


def _smooth(batch: int, channels: int, knots: int, generator: torch.Generator) -> Tensor:
    """Smooth noise (batch, channels, 64, 64) between `knots` squared normal numbers."""
    coarse = torch.randn(
        batch, channels, knots, knots, generator=generator, device=generator.device
    )
    return interpolate(coarse, (SIZE, SIZE), mode="bicubic", align_corners=True)


def broken(latents: Tensor, generator: torch.Generator) -> Tensor:
    """Latents (B, C, h, w) with random patches taken from another picture, and much noise.

    No caption is right for them. Without such pictures the reward would not know that a shape can
    be misshapen, and a generator that climbs it would find blots that score like shapes.
    """
    low, high = _BROKEN_PART
    device = latents.device
    part = low + (high - low) * torch.rand(
        len(latents), 1, 1, 1, generator=generator, device=device
    )
    patches = torch.rand(len(latents), 1, *latents.shape[2:], generator=generator, device=device)
    mixed = torch.where(patches < part, latents.roll(1, 0), latents)
    return mixed + _BROKEN_NOISE * latents.std() * _noise(latents, generator)


def attacked(
    latents: Tensor, loss: Callable[[Tensor], Tensor], generator: torch.Generator
) -> Tensor:
    """Latents moved, up to a random length, to where the loss is great: one ascent from near by.

    A reward that is trained on them rises only where a picture visibly comes closer to its
    caption: no small change of a picture changes its score much. (Wong et al., "Fast is better
    than free: revisiting adversarial training", 2020, with lengths in latent space.)

    `loss` is a sum over the batch's pictures or their mean. A length is up to 0.15 of the latents'
    typical norm; two scenes that differ in one shape's colour or kind are 0.16 to 1.4 apart, most
    of them more than 0.3.
    """
    device = latents.device
    draw = torch.rand(len(latents), 1, 1, 1, generator=generator, device=device)
    radius = _RADIUS * draw * latents.std() * latents[0].numel() ** 0.5
    start = _START * _unit(torch.randn(latents.shape, generator=generator, device=device))
    moved = (latents + radius * start).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(moved), moved)
    direction: Tensor = _unit(start + _unit(gradient))
    found: Tensor = (latents + radius * direction).detach()
    return found


def pixel_noise(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Gaussian noise for pictures in [0, 1], up to a deviation of 0.05."""
    return _PIXEL_NOISE * _noise(torch.empty(shape, device=generator.device), generator)


def _noise(like: Tensor, generator: torch.Generator) -> Tensor:
    """Gaussian noise in the shape of `like`, each sample's of a random deviation below 1."""
    strength = torch.rand(len(like), 1, 1, 1, generator=generator, device=like.device)
    normal = torch.randn(like.shape, generator=generator, device=like.device)
    return strength * normal


def _norm(values: Tensor) -> Tensor:
    lengths: Tensor = values.flatten(1).norm(dim=1)
    return lengths[:, None, None, None]


def _unit(values: Tensor) -> Tensor:
    return values / _norm(values).clamp(min=1e-12)
