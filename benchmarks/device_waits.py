"""How often the host waits for a device, and where in the code."""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

Waits = Counter[str]
"""How often the host waited, by the place in the code."""

PACKAGES = ("flowbp", "diffusers", "transformers", "peft")
"""Whose code a wait is put down to: the innermost frame of any of these."""

_SYNCHRONISED = "called a synchronizing CUDA operation"


@contextmanager
def host_waits(device: torch.device | str) -> Iterator[Waits]:
    """Count how often the host waits for a device, ``cuda`` or ``meta``.

    On CUDA, torch's debug mode for synchronisation reports every number fetched and every copy
    between host and device that is not asynchronous. An explicit `torch.cuda.synchronize` is not
    counted.

    On ``meta``, whose tensors have no data, whatever asks for data is counted and answered with
    ones: it shows without a GPU what a piece of work would wait for on one. Tensors of the host,
    such as sigmas, are not counted. What makes a shape of data, as `nonzero` does, raises torch's
    error.
    """
    waits, kind = Waits(), torch.device(device).type
    contexts = {"cuda": (_reported_by_cuda,), "meta": (_MetaAnswers, _MetaCreations)}
    if kind not in contexts:
        raise ValueError(f"`device` must be a CUDA device or 'meta', got {str(device)!r}")
    with ExitStack() as stack:
        for context in contexts[kind]:
            stack.enter_context(context(waits))
        yield waits


@contextmanager
def _reported_by_cuda(waits: Waits) -> Iterator[None]:
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        # By default Python shows a warning once for each place.
        warnings.filterwarnings("always", message=f".*{_SYNCHRONISED}")
        warnings.showwarning = _counting(waits, warnings.showwarning)
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode(before)


def _counting(waits: Waits, otherwise: Callable[..., None]) -> Callable[..., None]:
    def shown(message: Warning | str, *where: Any, **more: Any) -> None:
        if _SYNCHRONISED in str(message):
            waits[_place()] += 1
        else:
            otherwise(message, *where, **more)

    return shown


class _MetaAnswers(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every operation, and answers in place of tensors without data."""

    def __init__(self, waits: Waits) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.waits = waits

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        options, aten = dict(kwargs or {}), torch.ops.aten
        if func is aten._local_scalar_dense.default and args[0].is_meta:
            return self._counted(torch.ones((), dtype=args[0].dtype).item())
        if func is aten.equal.default and args[0].is_meta:
            return self._counted(True)
        if func is aten._to_copy.default and _waits(args[0], options.get("device"), options):
            if args[0].is_meta:
                dtype = options.get("dtype") or args[0].dtype
                return self._counted(torch.ones(args[0].shape, dtype=dtype))
            self._counted(None)
        if func is aten.copy_.default and _waits(args[1], args[0].device, options):
            # The third argument of copy_ is `non_blocking`.
            if not any(args[2:]):
                self._counted(None)
            if args[1].is_meta:
                return args[0].fill_(1)
        return func(*args, **options)

    def _counted(self, answer: Any) -> Any:
        self.waits[_place()] += 1
        return answer


class _MetaCreations(TorchFunctionMode):
    """Sees tensors made of the host's numbers, whose copy to the device is no operation."""

    def __init__(self, waits: Waits) -> None:
        super().__init__()
        self.waits = waits

    def __torch_function__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        options = dict(kwargs or {})
        made = func in (torch.tensor, torch.as_tensor) and not isinstance(args[0], Tensor)
        if made and torch.device(options.get("device") or "cpu").type == "meta":
            self.waits[_place()] += 1
        return func(*args, **options)


def _waits(source: Tensor, target: torch.device | None, options: Mapping[str, Any]) -> bool:
    other = source.device if target is None else torch.device(target)
    return source.is_meta != (other.type == "meta") and not options.get("non_blocking")


def _place() -> str:
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if name.partition(".")[0] in PACKAGES:
            return f"{name.replace('.', '/')}.py:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return "elsewhere"
