"""Which of torch's attention kernels a transformer uses."""

from __future__ import annotations

from typing import Any

import torch

from flowbp.adapters.policy import DtypePolicy


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
