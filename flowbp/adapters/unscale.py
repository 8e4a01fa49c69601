"""From the latents that a model samples to those that its VAE decodes."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

from flowbp.adapters.packing import unpatchify


class Unscale(Protocol):
    """Undoes the normalisation that a model was trained under."""

    def __call__(self, vae: Any, latents: Tensor) -> Tensor:
        """Latents (B, …) of the sampler to latents (B, C, h, w) of `vae`, differentiable."""
        ...


def scaled(vae: Any, latents: Tensor) -> Tensor:
    """``z / scaling_factor + shift_factor``, both of the VAE's configuration: SD3 and FLUX.1.

    Args:
        vae: A diffusers AutoencoderKL.
        latents: (B, C, h, w).

    Returns:
        (B, C, h, w).

    Example:
        >>> import torch
        >>> from types import SimpleNamespace
        >>> vae = SimpleNamespace(config={"scaling_factor": 0.5, "shift_factor": 1.0})
        >>> scaled(vae, torch.ones(1))
        tensor([3.])
    """
    config = vae.config
    unscaled: Tensor = latents / config["scaling_factor"] + (config.get("shift_factor") or 0.0)
    return unscaled


def batch_normalised(vae: Any, latents: Tensor) -> Tensor:
    """``unpatchify(z sqrt(variance + eps) + mean)``, with the VAE's batch-norm statistics: FLUX.2.

    Args:
        vae: A diffusers AutoencoderKLFlux2.
        latents: (B, 4C, h, w), patches of 2x2.

    Returns:
        (B, C, 2h, 2w).

    Example:
        >>> import torch
        >>> from types import SimpleNamespace
        >>> statistics = SimpleNamespace(running_mean=torch.ones(4), running_var=torch.ones(4))
        >>> vae = SimpleNamespace(bn=statistics, config={"batch_norm_eps": 0.0})
        >>> batch_normalised(vae, torch.ones(1, 4, 1, 1))
        tensor([[[[2., 2.],
                  [2., 2.]]]])
    """
    variance = vae.bn.running_var + vae.config["batch_norm_eps"]
    deviation, mean = (
        each.view(1, -1, 1, 1).to(latents) for each in (variance.sqrt(), vae.bn.running_mean)
    )
    return unpatchify(latents * deviation + mean)
