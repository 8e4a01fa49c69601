"""Faster attention of a VAE, group norm, upsampling and gelu in the networks of diffusers."""

from __future__ import annotations

import sys
from typing import Any, TypeGuard, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

_PLAIN_POSITIONS = 64 * 64
"""Up to which a VAE's attention is computed plainly: the latents of 512x512."""


class VaeAttention:
    """A diffusers attention processor that computes plainly where that is the fastest.

    A VAE attends once, with one head as wide as all its channels, mostly 512. No fused kernel
    takes so wide a head but the memory-efficient one, whose backward pass is several times slower
    than two matrix products. Those need memory with the square of the positions, so larger
    latents, and a CPU, keep torch's own choice.
    """

    def __init__(self) -> None:
        from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0

        self.plain, self.fused = AttnProcessor(), AttnProcessor2_0()

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """Attend among pixels, (B, C, H, W)."""
        positions = hidden_states.shape[-2] * hidden_states.shape[-1]
        plain = hidden_states.is_cuda and positions <= _PLAIN_POSITIONS
        attended: Tensor = (self.plain if plain else self.fused)(
            attn, hidden_states, encoder_hidden_states, attention_mask, temb
        )
        return attended


def attend_plainly(vae: Any) -> None:
    """Have a VAE's decoder attend with `VaeAttention`, unless another choice was made for it."""
    from diffusers.models.attention_processor import Attention, AttnProcessor2_0

    for part in vae.decoder.modules():
        if isinstance(part, Attention) and type(part.processor) is AttnProcessor2_0:
            part.set_processor(VaeAttention())


def lay_out_channels_last(decoder: nn.Module) -> None:
    """Have a decoder keep the channels of a pixel beside each other, in place and for good.

    Convolutions of half precision are computed that way; otherwise each transposes its input and
    output. torch's own group norm goes back to the usual layout on a GPU, and the gradient of its
    upsampling adds up one by one, so both are replaced by sums and products that a compiler fuses.
    Not compiled, these are slower than torch's own. Parameters and their names stay; the values
    are the same up to rounding.
    """
    from diffusers.models.upsampling import Upsample2D

    decoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for part in decoder.modules():
        if type(part) is nn.GroupNorm:
            part.__class__ = ChannelsLastGroupNorm
        elif type(part) is Upsample2D and part.interpolate and part.use_conv and part.norm is None:
            part.conv.register_forward_pre_hook(_double)
            part.interpolate = False


class ChannelsLastGroupNorm(nn.GroupNorm):
    """Group norm by sums and products: mean and variance of each channel, then of each group.

    The variance of a group is the mean of its channels' variances and the variance of their means.

    Reference: Wu and He, "Group Normalization", arXiv 1803.08494.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalize (B, C, …) to the same shape, layout and dtype."""
        x = input.to(torch.promote_types(input.dtype, torch.float32))
        spatial = tuple(range(2, x.ndim))
        variance, mean = torch.var_mean(x, dim=spatial, correction=0)
        grouped = (len(x), self.num_groups, -1)
        means = mean.view(grouped)
        spread = variance.view(grouped).mean(2, keepdim=True)
        spread = spread + means.var(2, correction=0, keepdim=True)
        center = means.mean(2, keepdim=True).expand_as(means).flatten(1)
        scale = (spread + self.eps).rsqrt().expand_as(means).flatten(1)
        if self.affine:
            scale = scale * self.weight
        where = (..., *(None,) * len(spatial))
        normal: Tensor = (x - center[where]) * scale[where]
        if self.affine:
            normal = normal + self.bias[where]
        return normal.to(input.dtype)


def doubled(pixels: Tensor) -> Tensor:
    """Every pixel twice in both directions: (B, C, H, W) to (B, C, 2H, 2W), channels last."""
    b, c, h, w = pixels.shape
    rows = pixels.permute(0, 2, 3, 1)[:, :, None, :, None]
    return rows.expand(b, h, 2, w, 2, c).reshape(b, 2 * h, 2 * w, c).permute(0, 3, 1, 2)


def _double(convolution: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    return (doubled(*inputs),)


def fuse_gelu(network: nn.Module) -> None:
    """Have the feed-forward parts of a network apply their gelu within the matrix product.

    On a CUDA device and without gradient, as in sampling, `gelu(x W + b)` is one kernel of cuBLAS
    there, which rounds once less; everywhere else the two are computed as before.
    """
    diffusers = sys.modules.get("diffusers.models.activations")
    if diffusers is None:
        # Nobody can have made such a part.
        return
    for part in network.modules():
        if type(part) is diffusers.GELU and part.approximate == "tanh":
            cast(Any, part).__class__ = TanhGelu


class TanhGelu(nn.Module):
    """`gelu(x W + b)` in its tanh form, by one kernel where `fuse_gelu` says so."""

    proj: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        """(…, D) to (…, 4D)."""
        linear = self.proj
        if torch.is_grad_enabled() or not x.is_cuda or not _is_plain(linear):
            return functional.gelu(linear(x), approximate="tanh")
        autocast = torch.is_autocast_enabled("cuda")
        dtype = torch.get_autocast_dtype("cuda") if autocast else x.dtype
        weight, bias = linear.weight.to(dtype), linear.bias.to(dtype)
        rows = x.flatten(0, -2).to(dtype)
        fused: Tensor = torch._addmm_activation(bias, rows, weight.t(), use_gelu=True)
        return fused.view(*x.shape[:-1], -1)


def _is_plain(layer: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether it is a product and nothing else: no adapter, quantized weight, or hook."""
    if type(layer) is not nn.Linear or layer.bias is None:
        return False
    hooked = layer._forward_hooks or layer._forward_pre_hooks
    return type(layer.weight) in (nn.Parameter, Tensor) and not hooked
