"""Finds tensors that go from one device to another, which on a GPU waits for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _Recorder(TorchDispatchMode):
    def __init__(self, found: list[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        leaves = tree_leaves((args, kwargs, output))
        devices = {leaf.device.type for leaf in leaves if isinstance(leaf, torch.Tensor)}
        if len(devices) > 1:
            self.found.append(str(func))
        return output


@contextmanager
def crossings() -> Iterator[list[str]]:
    """The operations of the block that touch tensors of two devices, by name."""
    found: list[str] = []
    with _Recorder(found):
        yield found
