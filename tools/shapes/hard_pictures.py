"""Pictures that make a reward robust: worn, broken and attacked ones."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_PIXEL_NOISE = 0.05
_LATENT_NOISE = 0.15
_BROKEN_NOISE = 0.6
_BROKEN_PART = (0.3, 0.7)
_RADIUS = 0.15
_START = 0.3


def worn(latents: Tensor, generator: torch.Generator) -> Tensor:
    """Latents (B, C, h, w) with noise of a random strength.

    The reward will score decoded pictures; it must neither favour nor fear the decoder's traces.
    """
    return latents + _LATENT_NOISE * latents.std() * _noise(latents, generator)


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
