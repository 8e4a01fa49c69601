"""The first half of a transformer's feed-forward part as one kernel, where no gradient is asked."""

from __future__ import annotations

import sys
from typing import Any, TypeGuard, cast

import torch
from torch import Tensor, nn
from torch.nn import functional


def fuse_gelu(network: nn.Module) -> None:
    """Have the feed-forward parts of a network apply their gelu within the matrix product.

    On a CUDA device and without gradient, as in sampling, `gelu(x W + b)` is one kernel of cuBLAS
    there, which rounds once less; everywhere else the two are computed as before. Only for the
    tanh form of gelu, which is cuBLAS's own, and for layers without adapter, hook or quantization.

    Args:
        network: With diffusers' own feed-forward parts; changed in place, for good. Parameters
            and their names stay.

    Example:
        >>> from diffusers.models.attention import FeedForward
        >>> part = FeedForward(4, activation_fn="gelu-approximate")
        >>> fuse_gelu(part)
        >>> type(part.net[0]).__name__, list(part.net[0].state_dict())
        ('TanhGelu', ['proj.weight', 'proj.bias'])
    """
    diffusers = sys.modules.get("diffusers.models.activations")
    if diffusers is None:
        # Nobody can have made such a part.
        return
    for part in network.modules():
        if type(part) is diffusers.GELU and part.approximate == "tanh":
            cast(Any, part).__class__ = TanhGelu


class TanhGelu(nn.Module):
    """`gelu(x W + b)` in its tanh form, by one kernel where `fuse_gelu` says so.

    Reference: Hendrycks and Gimpel, arXiv 1606.08415.
    """

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
