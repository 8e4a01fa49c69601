"""Which errors say that memory ran out, and what a stage makes of them."""

from __future__ import annotations

import errno

import pytest
import torch

from flowbp.memory_errors import is_out_of_memory
from flowbp.training import ExhaustedError, Portions
from flowbp.training.memory_stages import ENCODING, SWEEP, UPDATE, StageOutOfMemoryError, in_stage

SHORT = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def compiling_short() -> RuntimeError:
    """What torch raises where a backend of torch.compile runs out of memory."""

    def backend(graph, inputs):
        raise SHORT

    with pytest.raises(RuntimeError) as caught:
        torch.compile(lambda x: x + 1, backend=backend)(torch.ones(3))
    assert not isinstance(caught.value, torch.OutOfMemoryError)
    return caught.value


def caused(cause: Exception) -> RuntimeError:
    error = RuntimeError("the reward failed")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        SHORT,
        torch.OutOfMemoryError(),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("Triton Error [CUDA]: out of memory"),
        RuntimeError("backend='compiled' raised:\nOutOfMemoryError: "),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:119] err == 0. DefaultCPUAllocator: can't allocate "
            "memory: you tried to allocate 4398046511104 bytes. Error code 12 (Cannot allocate "
            "memory)"
        ),
        MemoryError("Unable to allocate 4.00 TiB for an array"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        caused(caused(SHORT)),
    ],
)
def test_what_says_that_memory_ran_out(error: Exception) -> None:
    assert is_out_of_memory(error)
    with pytest.raises(StageOutOfMemoryError), in_stage(SWEEP, 8):
        raise error


def test_memory_that_ran_out_while_compiling_is_memory_too() -> None:
    error = compiling_short()
    with pytest.raises(StageOutOfMemoryError, match="Tried to allocate 2"), in_stage(SWEEP, 8):
        raise error


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: device-side assert triggered"),
        RuntimeError("out of resource: shared memory, Required: 98304, Hardware limit: 65536"),
        caused(ValueError("no such word")),
    ],
)
def test_another_fault_is_left_as_it_is(error: RuntimeError) -> None:
    assert not is_out_of_memory(error)
    with pytest.raises(RuntimeError) as caught, in_stage(UPDATE, 8):
        raise error
    assert caught.value is error


def test_a_stage_without_lowerings_tells_its_cure_at_once() -> None:
    for stage, cure in ((ENCODING, "`embeddings.batch=1`"), (UPDATE, "LoRA")):
        told = f"out of memory in {stage.doing}: CUDA out of memory.* {cure}"
        with pytest.raises(ExhaustedError, match=told), in_stage(SWEEP, 8), in_stage(stage, 8):
            raise SHORT
    with pytest.raises(StageOutOfMemoryError) as caught, in_stage(SWEEP, 8):
        raise SHORT
    assert not isinstance(caught.value, ExhaustedError)


def test_a_stage_switches_checkpointing_on_once_it_cannot_be_halved():
    portions = Portions(samples=8, pull=8, decode=8, checkpointing=False)
    # A size beyond the batch is the batch's.
    assert SWEEP.lowered(portions, 5).pull == 2
    alone = SWEEP.lowered(Portions(samples=8, pull=1, decode=8, checkpointing=False), 8)
    assert alone.pull == 1 and alone.checkpointing is True
    assert SWEEP.lowered(Portions(samples=1, pull=1, decode=1), 1) is None
