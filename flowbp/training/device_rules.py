"""What a device does of itself, for tensors without data: autocast, and attention in one kernel."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from functools import partial, wraps
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack

_LOW = {
    F.linear,
    F.conv1d,
    F.conv2d,
    F.conv3d,
    F.scaled_dot_product_attention,
    torch.matmul,
    torch.bmm,
    torch.mm,
    torch.addmm,
    torch.baddbmm,
    torch.einsum,
    Tensor.matmul,
    Tensor.__matmul__,
    Tensor.bmm,
    Tensor.mm,
}
_HIGH = {
    F.layer_norm,
    F.group_norm,
    F.softmax,
    F.normalize,
    F.cosine_similarity,
    torch.softmax,
    torch.pow,
    torch.exp,
    torch.rsqrt,
    torch.sum,
    torch.norm,
    Tensor.softmax,
    Tensor.pow,
    Tensor.__pow__,
    Tensor.exp,
    Tensor.rsqrt,
    Tensor.sum,
    Tensor.norm,
}
"""What autocast computes in less precision, and what in float32 on a GPU; the rest as it comes."""

_WIDEST = 256
"""Of a head in flash attention."""


class DeviceRules(TorchFunctionMode):
    """Within it, `torch.autocast` and attention do to tensors without data what `device` does.

    torch has no autocast for them, and takes an attention of many steps. Tensors with data are left
    to torch, but for autocast.

    Args:
        device: the type of a device, ``cuda`` or ``cpu``.
    """

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device = device
        self.low: torch.dtype | None = None
        self.caching = True
        self.cast_weights: dict[int, tuple[Tensor, Tensor]] = {}
        self.depth = 0

    @contextmanager
    def active(self) -> Iterator[None]:
        """Context in which they hold."""
        before: Any = torch.autocast
        # One class by two names.
        places: Sequence[Any] = torch, torch.amp
        for place in places:
            place.autocast = partial(_Autocast, self)
        try:
            with self:
                yield
        finally:
            for place in places:
                place.autocast = before

    @contextmanager
    def in_backward(self, modules: Iterable[nn.Module], low: torch.dtype | None) -> Iterator[None]:
        """Context in which they also hold where checkpointed modules are called once more.

        torch has no mode of its own within a backward pass. `low` is what the modules' products are
        in under autocast.
        """
        changed = list(modules)
        for module in changed:
            module.forward = self._held(module.forward, low)
        try:
            yield
        finally:
            for module in changed:
                del module.__dict__["forward"]

    def _held(self, forward: Callable[..., Any], low: torch.dtype | None) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            if self in _get_current_function_mode_stack():  # type: ignore[no-untyped-call]
                return forward(*args, **options)
            before, self.low = self.low, low
            try:
                with self, self.without_cache():
                    return forward(*args, **options)
            finally:
                self.low = before

        return call

    @contextmanager
    def without_cache(self) -> Iterator[None]:
        """Context in which a weight is cast whenever it is read."""
        before, self.caching = self.caching, False
        try:
            yield
        finally:
            self.caching = before

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        options = kwargs or {}
        if self.low is not None and (func in _LOW or func in _HIGH):
            dtype = self.low if func in _LOW else torch.float32
            args = [self._cast(each, dtype) for each in args]
            options = {name: self._cast(each, dtype) for name, each in options.items()}
        if func is F.scaled_dot_product_attention:
            return self._attend(*args, **options)
        return func(*args, **options)

    def _cast(self, given: Any, dtype: torch.dtype) -> Any:
        if not isinstance(given, Tensor) or given.dtype not in (torch.float32, self.low):
            return given
        if given.dtype == dtype:
            return given
        kept = self.caching and dtype == self.low and given.is_leaf and given.requires_grad
        if not kept:
            return given.to(dtype)
        if id(given) not in self.cast_weights:
            self.cast_weights[id(given)] = given, given.to(dtype)
        return self.cast_weights[id(given)][1]

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        plain: Any = F.scaled_dot_product_attention
        if not query.is_meta or query.ndim != 4 or enable_gqa:
            options = {"scale": scale, "enable_gqa": enable_gqa}
            found: Tensor = plain(query, key, value, attn_mask, dropout_p, is_causal, **options)
            return found
        operations: Any = torch.ops.aten
        if attn_mask is not None:
            if attn_mask.dtype == torch.bool:
                attn_mask = torch.empty_like(attn_mask, dtype=query.dtype)
            attn_mask = attn_mask.expand(*query.shape[:-1], key.shape[-2])
        inputs = query, key, value
        if self.device == "cpu":
            fused = operations._scaled_dot_product_flash_attention_for_cpu
            made = fused(*inputs, dropout_p, is_causal, attn_mask=attn_mask, scale=scale)
        elif attn_mask is None and query.dtype.itemsize == 2 and query.shape[-1] <= _WIDEST:
            fused = operations._scaled_dot_product_flash_attention
            made = fused(*inputs, dropout_p, is_causal, scale=scale)
        else:
            fused = operations._scaled_dot_product_efficient_attention
            grad = torch.is_grad_enabled()
            made = fused(*inputs, attn_mask, grad, dropout_p, is_causal, scale=scale)
        attended: Tensor = made[0]
        return attended


class _Autocast:
    """In place of `torch.autocast`, by the same arguments."""

    def __init__(
        self,
        rules: DeviceRules,
        device_type: str,
        dtype: torch.dtype | None = None,
        enabled: bool = True,
        cache_enabled: bool | None = None,
    ) -> None:
        self.rules = rules
        self.low = (dtype or torch.bfloat16) if enabled else None
        # Of CUDA it says nothing to a CPU.
        self.ruling = device_type != "cuda" or rules.device == "cuda"

    def __enter__(self) -> _Autocast:
        rules = self.rules
        self.before = rules.low
        if self.ruling:
            rules.low = self.low
        rules.depth += 1
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        rules = self.rules
        rules.low = self.before
        rules.depth -= 1
        if rules.depth == 0:
            rules.cast_weights.clear()

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function that is called within it, whenever it is: a decorator."""

        @wraps(function)
        def call(*args: Any, **options: Any) -> Any:
            # One of its own for each call, as calls may be nested.
            with copy(self):
                return function(*args, **options)

        return call
