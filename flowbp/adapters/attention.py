"""Which of torch's attention kernels a transformer and a VAE use."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from flowbp.adapters.policy import DtypePolicy

_PLAIN_POSITIONS = 64 * 64
"""Up to which a VAE's attention is computed plainly: the latents of 512x512."""


def avoid_cudnn(transformer: Any, policy: DtypePolicy, device: torch.device) -> None:
    """Have a transformer use flash attention where torch would take cuDNN's.

    On an H100, torch 2.11 with CUDA 13.0 prefers cuDNN's attention, whose backward pass fails for
    FLUX.1: an illegal memory access, or gradients that are not a number. Flash, memory-efficient
    and plain attention agree with each other there. Flash attention takes half precision only;
    in float32 torch does not take cuDNN's either.

    Args:
        transformer: A diffusers model; its attention is set for good, in place.
        policy: Its dtypes.
        device: Where it runs.

    Example:
        >>> from flowbp.adapters.policy import FLOAT32
        >>> avoid_cudnn(object(), FLOAT32, torch.device("cuda"))  # nothing to avoid in float32
    """
    if device.type != "cuda" or policy.compute != torch.bfloat16:
        return
    for module in transformer.modules():
        # One by one: the model's own method also changes the default of every other model.
        if module is not transformer and hasattr(module, "set_attention_backend"):
            module.set_attention_backend("_native_flash")


class VaeAttention:
    """A diffusers attention processor that computes plainly where that is the fastest.

    A VAE attends once, with one head as wide as all its channels, mostly 512. No fused kernel
    takes so wide a head but the memory-efficient one, whose backward pass is several times slower
    than two matrix products. Those need memory with the square of the positions, so larger
    latents, and a CPU, keep torch's own choice.

    Example:
        >>> from diffusers.models.attention_processor import Attention
        >>> attention = Attention(8, processor=VaeAttention(), residual_connection=True)
        >>> attention(torch.zeros(1, 8, 2, 2)).shape
        torch.Size([1, 8, 2, 2])
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
    """Have a VAE's decoder attend with `VaeAttention`, unless another choice was made for it.

    Args:
        vae: A diffusers VAE, changed in place.

    Example:
        >>> from diffusers import AutoencoderKL
        >>> vae = AutoencoderKL(block_out_channels=(32,), latent_channels=4)
        >>> attend_plainly(vae)
        >>> type(vae.decoder.mid_block.attentions[0].processor).__name__
        'VaeAttention'
    """
    from diffusers.models.attention_processor import Attention, AttnProcessor2_0

    for part in vae.decoder.modules():
        if isinstance(part, Attention) and type(part.processor) is AttnProcessor2_0:
            part.set_processor(VaeAttention())
