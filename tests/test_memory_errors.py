"""Errors that say that memory ran out, in whatever type and words."""

from __future__ import annotations

import errno

import pytest

from flowbp.memory_errors import is_out_of_memory


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling …"),
        RuntimeError("backend='inductor' raised: OutOfMemoryError: …"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried …"),
        MemoryError(),
        OSError(errno.ENOMEM, "no"),
    ],
)
def test_short_memory_is_known(error):
    assert is_out_of_memory(error)
    wrapper = RuntimeError("compilation failed")
    wrapper.__cause__ = error
    assert is_out_of_memory(wrapper)


def test_another_error_is_none():
    assert not is_out_of_memory(RuntimeError("shapes do not match"))
    assert not is_out_of_memory(OSError(errno.ENOSPC, "no"))
