"""Latents to pixels through a frozen VAE, a few samples at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import attrs
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from flowbp.adapters.dtype_policy import CPU, FLOAT32, DtypePolicy
from flowbp.adapters.faster_modules import attend_plainly
from flowbp.adapters.latents import unpatchify

if TYPE_CHECKING:
    from diffusers import (
        AutoencoderKL,
        AutoencoderKLFlux2,
        AutoencoderKLQwenImage,
        AutoencoderKLWan,
    )


class Clamp(Protocol):
    """Maps decoded pixels of any range to [0, 1], element by element."""

    def __call__(self, images: Tensor) -> Tensor:
        """Images of any range to images of the same shape in [0, 1]."""
        ...


def hard_clamp(images: Tensor) -> Tensor:
    """Clamp to [0, 1]; a pixel outside gets no gradient. The published behaviour."""
    return images.clamp(0.0, 1.0)


def returning_clamp(images: Tensor) -> Tensor:
    """Clamp to [0, 1]; a pixel outside keeps the part of its gradient that leads back inside.

    With g the gradient of a loss that is minimised, a descent step moves a pixel by -g. Above 1
    only g > 0 is kept, below 0 only g < 0; inside, everything.

    Example:
        >>> images = torch.tensor([-1.0, 0.5, 2.0], requires_grad=True)
        >>> returning_clamp(images).sum().backward()
        >>> images.grad
        tensor([0., 1., 1.])
    """
    clamped: Tensor = _ReturningClamp.apply(images)  # type: ignore[no-untyped-call]
    return clamped


class _ReturningClamp(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(images: Tensor) -> Tensor:
        return images.clamp(0.0, 1.0)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (images,), (gradient,) = ctx.saved_tensors, gradients
        leaves = ((images > 1.0) & (gradient < 0.0)) | ((images < 0.0) & (gradient > 0.0))
        return gradient.masked_fill(leaves, 0.0)


Unscale = Callable[[Any, Tensor], Tensor]
"""Undoes the normalisation that a model was trained under, given its VAE; differentiable."""


def scaled(vae: Any, latents: Tensor) -> Tensor:
    """``z / scaling_factor + shift_factor``, both of the VAE's configuration: SD3 and FLUX.1."""
    config = vae.config
    unscaled: Tensor = latents / config["scaling_factor"] + (config.get("shift_factor") or 0.0)
    return unscaled


def batch_normalised(vae: Any, latents: Tensor) -> Tensor:
    """``unpatchify(z sqrt(variance + eps) + mean)``, the VAE's batch-norm statistics: FLUX.2."""
    variance = vae.bn.running_var + vae.config["batch_norm_eps"]
    deviation, mean = (
        each.view(1, -1, 1, 1).to(latents) for each in (variance.sqrt(), vae.bn.running_mean)
    )
    return unpatchify(latents * deviation + mean)


def channel_normalised(vae: Any, latents: Tensor) -> Tensor:
    """``z latents_std + latents_mean`` of each channel, the VAE's statistics: Qwen-Image, Wan."""
    means, deviations = vae.config["latents_mean"], vae.config["latents_std"]
    # By numbers: copying a list to a device would wait for it.
    channels = zip(latents.unbind(1), deviations, means, strict=True)
    return torch.stack([z * deviation + mean for z, deviation, mean in channels], 1)


def pixels_per_latent(vae: Mapping[str, Any]) -> int:
    """Pixels per latent of a VAE along one side, by its configuration."""
    if _of_videos(vae):
        return int(2 ** len(vae["temperal_downsample"]))
    # Each block but the last halves the picture.
    return int(2 ** (len(vae["block_out_channels"]) - 1))


def _of_videos(vae: Mapping[str, Any]) -> bool:
    return "temperal_downsample" in vae


@attrs.frozen(kw_only=True, eq=False)
class LatentDecoder:
    """Decodes latents with a frozen VAE: ``clamp(VAE(unscale(z)) / 2 + 1/2)``.

    Construction moves the VAE to `device`, casts it to `policy.weights` and freezes it. Of more
    than `decode_batch` samples each chunk's activations are computed again in the backward pass, so
    that memory holds those of one chunk, at the price of one more decoding.
    """

    vae: AutoencoderKL | AutoencoderKLFlux2 | AutoencoderKLQwenImage | AutoencoderKLWan
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

    @property
    def channels(self) -> int:
        """Channels of the VAE's latents."""
        config = self.vae.config
        channels: int = config["z_dim" if self.of_videos else "latent_channels"]
        return channels

    @property
    def of_videos(self) -> bool:
        """Whether the VAE is one of videos, for which a picture is a video of one frame."""
        return _of_videos(self.vae.config)

    def __call__(self, latents: Tensor) -> Tensor:
        """Decode latents (B, C, h, w) to images (B, 3, H, W) in [0, 1], in `policy.state`.

        A VAE of videos decodes (B, C, f, h, w) to (B, 3, F, H, W) too.
        """
        if self.decode_batch is None or len(latents) <= self.decode_batch:
            return self._decode(latents)
        decode: Callable[[Tensor], Tensor] = self._decode
        if torch.is_grad_enabled() and latents.requires_grad:
            decode = partial(
                checkpoint, self._decode, use_reentrant=False, preserve_rng_state=False
            )
        return torch.cat([decode(chunk) for chunk in torch.split(latents, self.decode_batch)])

    def _decode(self, latents: Tensor) -> Tensor:
        z = self.unscale(self.vae, latents.to(self.policy.state))
        one_frame = self.of_videos and z.ndim == 4
        if one_frame:
            z = z.unsqueeze(2)
        with self.policy.autocast(self.device):
            decoded = self.vae.decode(z.to(self.policy.weights), return_dict=False)[0]
        if one_frame:
            decoded = decoded.squeeze(2)
        return self.clamp(decoded.to(self.policy.state) / 2 + 0.5)


def check_channels(decoder: LatentDecoder, channels: int, *, folded: int = 1) -> None:
    """Refuse a VAE whose latents, `folded` to a position, are not the transformer's `channels`."""
    if decoder.channels * folded != channels:
        raise ValueError(
            f"`decoder` must decode {channels // folded} channels like the transformer, got "
            f"{decoder.channels}; this VAE belongs to another model"
        )
