"""One training loop for the three models, and CUDA graphs to speed it."""

from __future__ import annotations

import copy
import math
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def fit(
    module: nn.Module,
    loss: Callable[[int], Tensor],
    *,
    steps: int,
    learning_rate: float,
    name: str,
    seconds: float = math.inf,
) -> nn.Module:
    """Minimise `loss(step)` with AdamW under a cosine schedule; return the averaged weights.

    The peak of the learning rate comes after 5 % of the steps. Where they would take longer than
    `seconds`, the schedule follows the clock instead and ends with it.
    """
    parameters: list[Tensor] = [p for p in module.parameters() if p.requires_grad]
    fused = parameters[0].is_cuda
    optimizer = torch.optim.AdamW(
        parameters, lr=learning_rate, weight_decay=0.01, betas=(0.9, 0.99), fused=fused
    )
    averaged = copy.deepcopy(module).requires_grad_(False)
    shadows: list[Tensor] = [
        s
        for s, p in zip(averaged.parameters(), module.parameters(), strict=True)
        if p.requires_grad
    ]
    warmup, began = max(1, steps // 20), time.monotonic()
    for step in range(steps):
        spent = (time.monotonic() - began) / seconds
        if spent >= 1:
            break
        place = max(step, spent * steps)
        progress = max(0, place - warmup) / max(1, steps - warmup)
        rate = min((place + 1) / warmup, 0.5 * (1 + math.cos(math.pi * progress)))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * rate
        value = loss(step)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(value)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        decay = min(0.999, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(shadows, parameters, 1 - decay)
        if step % max(1, steps // 20) == 0 or step == steps - 1:
            elapsed = time.monotonic() - began
            print(
                f"{name} step {step} loss {value.item():.5f} "
                f"{1e3 * elapsed / (step + 1):.1f} ms/step",
                file=sys.stderr,
                flush=True,
            )
    return averaged


def mixed_precision(device: torch.device) -> torch.autocast:
    """bfloat16 products on a GPU, nothing on a CPU.

    Without autocast's cache: CUDA graphs may not reuse weights that were cast before the capture.
    """
    on_gpu = device.type == "cuda"
    return torch.autocast(device.type, torch.bfloat16, enabled=on_gpu, cache_enabled=False)


def captured(module: nn.Module, sample: tuple[Tensor, ...]) -> Any:
    """The module as a CUDA graph for arguments like these; on a CPU, the module itself.

    Every tensor of these trainings is small: launching the kernels one by one takes longer than
    they do. The module must not draw or look at values on the host, and later arguments must equal
    the sample in shape and in whether they need gradients.
    """
    if not sample[0].is_cuda:
        return module
    return torch.cuda.make_graphed_callables(module, sample, allow_unused_input=True)
