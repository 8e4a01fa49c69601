"""Which attention kernel is the fastest of those that agree with float32, measured once a shape."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
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

_CLEARLY = 0.95
"""Of the time of an earlier kernel, below which a later one is taken: noise shall not decide."""

_ROUNDS, _CALLS = 3, 4


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


class Choices:
    """The fastest right kernel for each shape, found when it is first asked for.

    Args:
        kernels: by name; where times are near each other the earlier one is taken.
        exact: names of those whose gradients are the same every time they are computed.
        clock: seconds of a call on a device.
        agree: what all processes take, of a description of the call and this one's name for it.
        say: takes a line about each choice.

    Raises:
        RuntimeError: no kernel agrees with float32.
    """

    def __init__(
        self,
        kernels: Mapping[str, Kernel],
        *,
        exact: tuple[str, ...] = (),
        clock: Callable[[Callable[[], Any], torch.device], float] | None = None,
        agree: Callable[[str, str], str] = lambda call, name: name,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.kernels, self.exact, self.clock = kernels, exact, clock or seconds
        self.agree, self.say = agree, say
        self._found: dict[AttentionCall, str] = {}

    def of(self, call: AttentionCall) -> str:
        """The name of the kernel for a call."""
        if call not in self._found:
            self._found[call] = _apart(lambda: self._chosen(call))
        return self._found[call]

    def _chosen(self, call: AttentionCall) -> str:
        trial = Trial(call)
        times: dict[str, float] = {}
        faults: dict[str, str] = {}
        for name, kernel in self.kernels.items():
            if call.deterministic and name not in self.exact:
                faults[name] = "not deterministic"
                continue
            try:
                fault = trial.fault(kernel)
                if fault:
                    faults[name] = fault
                else:
                    times[name] = self.clock(lambda kernel=kernel: trial.run(kernel), call.device)  # type: ignore[misc]
            except torch.OutOfMemoryError:
                # Smaller portions are tried then, which have shapes of their own.
                raise
            except (RuntimeError, NotImplementedError) as error:
                faults[name] = f"fails ({str(error).strip().splitlines()[0][:60]})"
        if not times:
            told = "; ".join(f"{name} {fault}" for name, fault in faults.items())
            raise RuntimeError(
                f"`run.attention` is auto, and no kernel agrees with float32 on {call}: {told}; "
                "write run.attention=native for torch's own choice"
            )
        found = _fastest(times)
        agreed = self.agree(str(call), found)
        if agreed in times:
            found = agreed
        self.say(_line(call, found, times, faults))
        return found


def _fastest(times: Mapping[str, float]) -> str:
    names = iter(times)
    found = next(names)
    for name in names:
        if times[name] < _CLEARLY * times[found]:
            found = name
    return found


def _line(
    call: AttentionCall, found: str, times: Mapping[str, float], faults: Mapping[str, str]
) -> str:
    measured = [f"{name} {1000 * each:.2f} ms" for name, each in times.items()]
    left_out = [f"{name} {fault}" for name, fault in faults.items()]
    return f"attention, {call}: {found} ({', '.join(measured + left_out)})"


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
        for name, ours, exact in zip(names, found, self.expected, strict=False):
            if ours.shape != exact.shape or ours.dtype != exact.dtype:
                return f"gives {name} another shape or dtype"
            for limit, dims in ((_HEAD, (2, 3)), (_POSITION, (3,))):
                error = _norm(ours - exact, dims) / _norm(exact, dims).clamp_min(1e-30)
                # Written so that what is no number is not right.
                if not bool((error <= limit * self.unit).all()):
                    return f"is off by {float(error.max()):.2g} in {name}"
        return ""


def _norm(heads: Tensor, dims: tuple[int, ...]) -> Tensor:
    found: Tensor = torch.linalg.vector_norm(heads, dim=dims, dtype=torch.float32)
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


def seconds(run: Callable[[], Any], device: torch.device) -> float:
    """The time of a call, the shortest of a few rounds."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    run()
    rounds = []
    for _ in range(_ROUNDS):
        wait()
        begun = time.perf_counter()
        for _ in range(_CALLS):
            run()
        wait()
        rounds.append((time.perf_counter() - begun) / _CALLS)
    return min(rounds)


def _apart(work: Callable[[], str]) -> str:
    """Do something in a thread of its own.

    A choice may fall while a block is traced, recomputed, counted or transformed: all of these are
    states of the thread, as are autocast and whether gradients are recorded.
    """
    found: list[str] = []
    failed: list[Exception] = []

    def run() -> None:
        try:
            found.append(work())
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return found[0]
