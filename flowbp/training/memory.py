"""How much memory of a device is free, and how much a piece of work takes."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Protocol

import attrs
import torch

GIB = 2**30


class Memory(Protocol):
    """A device's memory, in bytes."""

    def free(self) -> int:
        """What can still be allocated."""
        ...

    def peak(self, work: Callable[[], object], /) -> int:
        """Do a piece of work, and tell the most that was allocated meanwhile, above the present."""
        ...


@attrs.frozen
class CudaMemory:
    """The memory of a CUDA device.

    Args:
        device: which.

    Example:
        ``CudaMemory(torch.device("cuda")).free()``
    """

    device: torch.device

    def free(self) -> int:
        """What the device has free, and what torch's allocator holds unused.

        What other processes take later is not foreseen.
        """
        unused = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
        free: int = torch.cuda.mem_get_info(self.device)[0]
        return free + unused

    def peak(self, work: Callable[[], object], /) -> int:
        """Do a piece of work, and tell the most that was allocated meanwhile, above the present.

        torch's own record of the peak begins anew.
        """
        before: int = torch.cuda.memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        work()
        return torch.cuda.max_memory_allocated(self.device) - before


def memory_of(device: torch.device) -> Memory | None:
    """The memory that portions are fitted into.

    Args:
        device: of the run.

    Returns:
        That of a CUDA device; None for any other, where nothing is fitted.

    Example:
        >>> print(memory_of(torch.device("cpu")))
        None
    """
    return CudaMemory(device) if device.type == "cuda" else None


def release(device: torch.device) -> None:
    """Give back what nothing refers to any more to a CUDA device; elsewhere nothing is held back.

    Args:
        device: of the run.

    Example:
        >>> release(torch.device("cpu"))
    """
    if device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()
