"""Whether an attention kernel agrees with float32, tried on drawn queries, keys and values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor

Kernel = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Attention of queries, keys and values (B, H, N, D) to the same shape, with its gradient."""

_HEAD, _POSITION = 4, 16
"""How far a head, or one position of it, may be from float32, in roundings of the dtype.

Right kernels are about one rounding off. A kernel that is wrong in one head or position is off by
the whole of it there, which a norm over everything would hide."""


@attrs.frozen
class AttentionCall:
    """What a kernel is chosen for: queries (B, H, N, D) that attend to `keys` positions."""

    shape: tuple[int, ...]
    keys: int
    dtype: torch.dtype
    device: torch.device
    gradient: bool
    deterministic: bool = False

    def __str__(self) -> str:
        """The sizes, as one says them."""
        batch, heads, positions, width = self.shape
        dtype = str(self.dtype).removeprefix("torch.")
        tokens = f"{positions}" if positions == self.keys else f"{positions} to {self.keys}"
        passes = "forward and backward" if self.gradient else "forward"
        return f"{batch} x {heads} heads of {width}, {tokens} tokens, {dtype}, {passes}"


def by_position(heads: Tensor) -> Tensor:
    """The same (B, H, N, D), laid out as contiguous (B, N, H, D), which is how networks hold it."""
    return heads.transpose(1, 2).contiguous().transpose(1, 2)


class Trial:
    """Drawn queries, keys, values and incoming gradients, with what float32 makes of them."""

    def __init__(self, call: AttentionCall) -> None:
        self.gradient = call.gradient
        source = torch.Generator(call.device).manual_seed(0)
        self.unit = torch.finfo(call.dtype).eps

        def drawn(positions: int) -> Tensor:
            batch, heads, _, width = call.shape
            options: dict[str, Any] = {"device": call.device, "dtype": call.dtype}
            shape = (batch, positions, heads, width)
            return torch.randn(shape, generator=source, **options).transpose(1, 2)

        self.inputs = [drawn(call.shape[2]), drawn(call.keys), drawn(call.keys)]
        self.cotangent = drawn(call.shape[2])
        self.expected = exact_attention(self.inputs, self.cotangent, gradient=self.gradient)
        self.sizes = [_norm(each, 3) for each in self.expected]
        if self.gradient:
            lost = cancelled(self.inputs, self.cotangent, self.expected[0])
            self.sizes[1:3] = [
                each + more for each, more in zip(self.sizes[1:3], lost, strict=True)
            ]

    def run(self, kernel: Kernel, cotangent: Tensor | None = None) -> list[Tensor]:
        """The output, and the gradients if the call is one with them."""
        if not self.gradient:
            with torch.no_grad():
                return [kernel(*self.inputs)]
        leaves = [each.detach().requires_grad_() for each in self.inputs]
        with torch.enable_grad():
            found = kernel(*leaves)
        given = self.cotangent if cotangent is None else cotangent
        return [found.detach(), *torch.autograd.grad(found, leaves, given)]

    def fault(self, kernel: Kernel) -> str:
        """In what a kernel is wrong; nothing if it is right, however the gradient is laid out."""
        if not self.gradient:
            return self._difference(self.run(kernel))
        for cotangent in layouts(self.cotangent):
            fault = self._difference(self.run(kernel, cotangent))
            if fault:
                return fault
        return ""

    def _difference(self, found: list[Tensor]) -> str:
        names = ("the output", "the queries' gradient", "the keys'", "the values'")
        for name, ours, exact, sizes in zip(names, found, self.expected, self.sizes, strict=False):
            if ours.shape != exact.shape or ours.dtype != exact.dtype:
                return f"gives {name} another shape or dtype"
            errors = _norm(ours - exact, 3)
            for limit, error, size in (
                (_HEAD, _norm(errors, 2), _norm(sizes, 2)),
                (_POSITION, errors, sizes),
            ):
                off = error / size.clamp_min(1e-30)
                # Written so that what is no number is not right.
                if not bool((off <= limit * self.unit).all()):
                    return f"is off by {float(off.max()):.2g} in {name}"
        return ""


def _norm(values: Tensor, dim: int) -> Tensor:
    found: Tensor = torch.linalg.vector_norm(values, dim=dim, dtype=torch.float32)
    return found


def layouts(cotangent: Tensor) -> list[Tensor]:
    """An incoming gradient (B, H, N, D) as networks hand it back, the first one again at the end.

    By position, as a projection of the output does; by head; as a part of something wider, as
    after a concatenation. torch keeps cuDNN's backward graph without the strides that it was made
    for, so that the second one may be wrong where the first is right.
    """
    first = cotangent.transpose(1, 2)
    batch, positions, heads, width = first.shape
    wider = first.new_zeros(batch, positions, 2 * heads * width)
    part = wider[:, :, : heads * width].view(batch, positions, heads, width)
    part.copy_(first)
    return [cotangent, cotangent.contiguous(), part.transpose(1, 2), cotangent]


def exact_attention(inputs: Sequence[Tensor], cotangent: Tensor, *, gradient: bool) -> list[Tensor]:
    """Output and gradients by products in float32, rounded once; one head at a time."""
    query = inputs[0]
    found = [torch.empty_like(each) for each in ((query, *inputs) if gradient else (query,))]
    for sample, head in torch.cartesian_prod(*map(torch.arange, query.shape[:2])).tolist():
        q, k, v = (each[sample, head].float().requires_grad_(gradient) for each in inputs)
        with torch.set_grad_enabled(gradient):
            out = (q @ k.t() * q.shape[-1] ** -0.5).softmax(-1) @ v
        parts = [out.detach()]
        if gradient:
            given = cotangent[sample, head].float()
            parts += torch.autograd.grad(out, (q, k, v), given)
        for whole, part in zip(found, parts, strict=True):
            whole[sample, head] = part
    return found


def cancelled(inputs: Sequence[Tensor], cotangent: Tensor, out: Tensor) -> list[Tensor]:
    """How far the output's rounding moves the gradients of queries and keys, (B, H, N) by position.

    In roundings. The softmax's gradient is a difference from the product of output and incoming
    gradient, and with few keys next to nothing is left of it: with one key 0.
    """
    query, key, _ = inputs
    found = [torch.empty(each.shape[:3], device=each.device) for each in (query, key)]
    for sample, head in torch.cartesian_prod(*map(torch.arange, query.shape[:2])).tolist():
        q, k, g, o = (each[sample, head].float() for each in (query, key, cotangent, out))
        scale = q.shape[-1] ** -0.5
        shares = (q @ k.t() * scale).softmax(-1)
        moved = scale * _norm(g * o, 1)
        found[0][sample, head] = moved * _norm(shares @ k, 1)
        found[1][sample, head] = _norm(shares * (moved * _norm(q, 1))[:, None], 0)
    return found
