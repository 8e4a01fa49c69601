"""The autoencoder: 64x64 pictures, or of another size, to 8x8 latents of 8 channels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tools.shapes.corpus import Corpus
from tools.shapes.fit import fit
from tools.shapes.recipe import Recipe

_KL_WEIGHT = 3e-4


def build_autoencoder(recipe: Recipe, corpus: Corpus) -> Any:
    """Train an `AutoencoderKL` and set its scaling so that latents have mean 0 and deviation 1."""
    from diffusers import AutoencoderKL

    torch.manual_seed(recipe.seed + 1)
    device = corpus.pictures.device
    channels = (16, 32, 64, 64)
    model: Any = AutoencoderKL(
        block_out_channels=channels,
        layers_per_block=1,
        latent_channels=8,
        norm_num_groups=8,
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        use_quant_conv=False,
        use_post_quant_conv=False,
        sample_size=64,
    ).to(device)
    generator = torch.Generator(device).manual_seed(recipe.seed + 2)

    def loss(_: int) -> Tensor:
        picked = torch.randint(
            len(corpus.pictures), (recipe.vae_batch,), generator=generator, device=device
        )
        pictures = to_model_range(corpus.pictures[picked])
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            posterior = model.encode(pictures).latent_dist
            eps = torch.randn(posterior.mean.shape, generator=generator, device=device)
            decoded = model.decode(posterior.mean + posterior.std * eps).sample
        gap = decoded.float() - pictures
        mean, log_variance = posterior.mean.float(), posterior.logvar.float()
        kl = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).mean()
        value: Tensor = gap.abs().mean() + (gap**2).mean() + _KL_WEIGHT * kl
        return value

    averaged: Any = fit(
        model,
        loss,
        steps=recipe.vae_steps,
        learning_rate=2e-3,
        name="vae",
        seconds=recipe.vae_seconds,
    )
    averaged.eval()
    latents = encode(averaged, corpus.pictures[:8192])[0]
    averaged.register_to_config(
        scaling_factor=1 / latents.std().item(), shift_factor=latents.mean().item()
    )
    return averaged


def to_model_range(pictures: Tensor) -> Tensor:
    """uint8 pictures to floats in [-1, 1]."""
    return pictures.float() / 127.5 - 1


@torch.no_grad()
def encode(model: Any, pictures: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of the latents of uint8 pictures (n, 3, H, W), each (n, 8, H/8, W/8)."""
    means, deviations = [], []
    for piece in torch.split(pictures, 512):
        posterior = model.encode(to_model_range(piece)).latent_dist
        means.append(posterior.mean)
        deviations.append(posterior.std)
    return torch.cat(means), torch.cat(deviations)
