"""Whether an error says that memory ran out, on a device or on the machine itself."""

from __future__ import annotations

import errno

import torch

_MESSAGES = (
    "out of memory",
    "OutOfMemoryError",
    "_ALLOC_FAILED",
    "DefaultCPUAllocator",
    "can't allocate memory",
)
"""What allocators, compilers and libraries under torch say in errors of other types."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, itself or by its cause: smaller work might fit.

    Torch has a type for that on a device, but the CPU's allocator and libraries under torch say so
    in words alone, and a compiler that runs out of memory wraps the error in one of its own.
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if not isinstance(error, RuntimeError):
        return False
    cause = error.__cause__
    return any(words in str(error) for words in _MESSAGES) or (
        cause is not None and is_out_of_memory(cause)
    )
