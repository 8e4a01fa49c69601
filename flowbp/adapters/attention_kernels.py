"""Attention on a GPU, by a kernel that is named or by the fastest right one."""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from flowbp.adapters.attention_choice import Choices
from flowbp.adapters.attention_trial import AttentionCall, Kernel, by_position

AUTO, NATIVE = "auto", "native"

HALF = (torch.bfloat16, torch.float16)
"""In which the named kernels compute."""


class DenseGradient(torch.autograd.Function):
    """The same (B, H, N, D), whose gradient arrives laid out by position, whatever it was.

    torch keeps cuDNN's backward graph by the strides of queries, keys and values, and not by those
    of the gradient: one with others than the first is read wrongly, beyond its end or as NaN.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(heads: Tensor) -> Tensor:
        """The same."""
        return heads.view_as(heads)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Nothing is needed."""

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """The same, by position."""
        return by_position(gradient)


def _with_dense_gradient(heads: Tensor) -> Tensor:
    dense: Tensor = DenseGradient.apply(heads)  # type: ignore[no-untyped-call]
    return dense


# torch's operations themselves: its context that selects one would keep what is compiled from being
# read by a later process, as torch knows no key for it.
def _cudnn(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    query, key, value = by_position(query), by_position(key), by_position(value)
    found = torch.ops.aten._scaled_dot_product_cudnn_attention(
        query, key, value, None, _recorded(query, key, value)
    )
    return _with_dense_gradient(found[0])


def _flash(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    found: Tensor = torch.ops.aten._scaled_dot_product_flash_attention(query, key, value)[0]
    return found


def _efficient(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    found: Tensor = torch.ops.aten._scaled_dot_product_efficient_attention(
        query, key, value, None, _recorded(query, key, value)
    )[0]
    return found


def _native(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Torch's own choice, which may be cuDNN's kernel."""
    query, key, value = by_position(query), by_position(key), by_position(value)
    return _with_dense_gradient(
        functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    )


KERNELS: dict[str, Kernel] = {"cudnn": _cudnn, "flash": _flash, "efficient": _efficient}
"""The kernels that a run may name."""

ATTENTIONS = (AUTO, *KERNELS, NATIVE)
"""The values of `run.attention`."""

CHOICES = Choices({**KERNELS, NATIVE: _native}, exact=("flash", NATIVE))
"""Those of this process."""


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _chosen(
    shape: tuple[int, ...], keys: int, dtype: torch.dtype, device: torch.device, gradient: bool
) -> str:
    deterministic = torch.are_deterministic_algorithms_enabled()
    return CHOICES.of(AttentionCall(tuple(shape), keys, dtype, device, gradient, deterministic))


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _told_of_mask(attention: str) -> bool:
    """Whether it was said that a kernel does not take masks, which this does once."""
    return _tell_of_mask(attention, CHOICES.key)


@cache
def _tell_of_mask(attention: str, key: str) -> bool:
    warnings.warn(
        f"{key} is {attention!r}, and torch decides instead where attention has a mask, as it has "
        "for prompts of unequal length",
        stacklevel=2,
    )
    return True


def attend(
    attention: str, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None
) -> Tensor:
    """Attend by a kernel: queries, keys and values (B, H, N, D) to (B, H, N, D).

    `auto` is the fastest kernel that agrees with float32 for this shape. With a mask, and in other
    than half precision, which no named kernel computes in, torch decides; of a mask a named kernel
    warns once.
    """
    query, key, value = _cast(query), _cast(key), _cast(value)
    if attention == NATIVE or query.dtype not in HALF:
        return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    if mask is not None:
        if attention in KERNELS:
            _told_of_mask(attention)
        return _native(query, key, value, mask)
    if attention == AUTO:
        recorded = _recorded(query, key, value)
        shape = tuple(query.shape)
        attention = _chosen(shape, key.shape[2], query.dtype, query.device, recorded)
    return CHOICES.kernels[attention](query, key, value)


def _recorded(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether a gradient may be asked for."""
    wanted = query.requires_grad or key.requires_grad or value.requires_grad
    return torch.is_grad_enabled() and wanted


def _cast(heads: Tensor) -> Tensor:
    # As autocast does for torch's attention, and not for the operations under it.
    kind = heads.device.type
    if heads.dtype == torch.float64 or not torch.is_autocast_enabled(kind):
        return heads
    return heads.to(torch.get_autocast_dtype(kind))
