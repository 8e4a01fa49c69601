"""Which of torch's attention kernels a transformer and a VAE use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

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


@contextmanager
def decoder_attention(latents: Tensor) -> Iterator[None]:
    """Context in which a VAE decodes, with plain attention where that is the fastest.

    A VAE attends once, with one head as wide as all its channels, mostly 512. No fused kernel
    takes so wide a head but the memory-efficient one, whose backward pass is several times slower
    than two matrix products. Those need memory with the square of the positions, so larger
    latents keep the fused kernel.

    Args:
        latents: (B, C, h, w), what is decoded.

    Yields:
        Nothing.

    Example:
        >>> with decoder_attention(torch.zeros(1, 16, 64, 64)):
        ...     pass
    """
    positions = latents.shape[-2] * latents.shape[-1]
    if latents.device.type != "cuda" or positions > _PLAIN_POSITIONS:
        yield
        return
    with sdpa_kernel(SDPBackend.MATH):
        yield
