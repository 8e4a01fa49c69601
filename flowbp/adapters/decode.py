"""Latents to pixels through a frozen VAE, a few samples at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from flowbp.adapters.attention import attend_plainly
from flowbp.adapters.clamp import Clamp, hard_clamp
from flowbp.adapters.policy import CPU, FLOAT32, DtypePolicy
from flowbp.adapters.sizes import pixels_per_latent
from flowbp.adapters.unscale import Unscale, scaled

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, AutoencoderKLFlux2


@attrs.frozen(kw_only=True, eq=False)
class LatentDecoder:
    """Decodes latents with a frozen VAE: ``clamp(VAE(unscale(z)) / 2 + 1/2)``.

    Construction moves the VAE to `device`, casts it to `policy.weights` and freezes it.

    With more than one chunk and gradient enabled, a chunk's activations are computed again in
    the backward pass, so that memory holds those of one chunk, at the price of one more decoding.

    Args:
        vae: A diffusers AutoencoderKL or AutoencoderKLFlux2.
        unscale: From the sampler's latents to those of the VAE.
        policy: Dtypes of the VAE.
        device: Where it runs.
        decode_batch: Samples decoded at a time; None is the whole batch at once.
        clamp: How pixels are brought into [0, 1].

    Raises:
        ValueError: `decode_batch` is less than 1.

    Example:
        >>> from diffusers import AutoencoderKL
        >>> vae = AutoencoderKL(block_out_channels=(32,), latent_channels=4)
        >>> LatentDecoder(vae=vae, decode_batch=1)(torch.zeros(2, 4, 8, 8)).shape
        torch.Size([2, 3, 8, 8])
    """

    vae: AutoencoderKL | AutoencoderKLFlux2
    unscale: Unscale = scaled
    policy: DtypePolicy = FLOAT32
    device: torch.device = attrs.field(default=CPU, converter=torch.device)
    decode_batch: int | None = None
    clamp: Clamp = hard_clamp

    def __attrs_post_init__(self) -> None:
        if self.decode_batch is not None and self.decode_batch < 1:
            raise ValueError(
                f"`decode_batch` must be at least 1, got {self.decode_batch}; "
                "None decodes the whole batch at once"
            )
        self.policy.place(self.vae, self.device)
        self.vae.requires_grad_(False).eval()
        attend_plainly(self.vae)

    @property
    def scale_factor(self) -> int:
        """Pixels per latent of the VAE along one side."""
        return pixels_per_latent(self.vae.config)

    def __call__(self, latents: Tensor) -> Tensor:
        """Decode latents (B, C, h, w) to images (B, 3, H, W) in [0, 1], in `policy.state`."""
        if self.decode_batch is None or len(latents) <= self.decode_batch:
            return self._decode(latents)
        recompute = torch.is_grad_enabled() and latents.requires_grad
        chunks = torch.split(latents, self.decode_batch)
        if not recompute:
            return torch.cat([self._decode(chunk) for chunk in chunks])
        return torch.cat(
            [
                checkpoint(self._decode, chunk, use_reentrant=False, preserve_rng_state=False)
                for chunk in chunks
            ]
        )

    def _decode(self, latents: Tensor) -> Tensor:
        z = self.unscale(self.vae, latents.to(self.policy.state))
        with self.policy.autocast(self.device):
            decoded = self.vae.decode(z.to(self.policy.weights), return_dict=False)[0]
        return self.clamp(decoded.to(self.policy.state) / 2 + 0.5)


def check_channels(decoder: LatentDecoder, channels: int, *, folded: int = 1) -> None:
    """Refuse a VAE whose latents are not what the transformer reads.

    Args:
        decoder: The VAE.
        channels: The transformer's in_channels.
        folded: Latents that one position of the transformer holds.

    Raises:
        ValueError: The VAE belongs to another model.

    Example:
        >>> from types import SimpleNamespace
        >>> vae = SimpleNamespace(config={"latent_channels": 16})
        >>> check_channels(SimpleNamespace(vae=vae), 64, folded=4)
    """
    latent_channels = decoder.vae.config["latent_channels"]
    if latent_channels * folded != channels:
        raise ValueError(
            f"`decoder` must decode {channels // folded} channels like the transformer, got "
            f"{latent_channels}; this VAE belongs to another model"
        )
