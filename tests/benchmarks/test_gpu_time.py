"""What overlaps on a GPU is counted once, and NCCL apart."""

from __future__ import annotations

import pytest
import torch

from benchmarks.gpu_time import GpuTime, Profiled, covered


def event(name, first, last, cat="kernel"):
    return {"ph": "X", "cat": cat, "name": name, "ts": first * 1e6, "dur": (last - first) * 1e6}


def test_overlapping_spans_are_counted_once():
    assert covered([]) == 0
    assert covered([(5, 6), (0, 2), (1, 3), (1.5, 2)]) == 4


def test_what_is_not_nccl_computes_and_nccl_is_exposed_where_nothing_else_runs():
    events = [
        event("gemm", 0, 2),
        event("copy", 1, 3, cat="gpu_memcpy"),
        event("ncclDevKernel_AllReduce_Sum_f32_RING_LL(…)", 2, 5),
        event("gemm", 4, 4.5),
        event("nccl:all_reduce", 0, 9, cat="gpu_user_annotation"),
        event("cudaLaunchKernel", 0, 9, cat="cuda_runtime"),
        {"ph": "M", "name": "process_name"},
    ]
    found = GpuTime.of(events, wall=8.0)
    expected = GpuTime(wall=8.0, compute=3.5, nccl=3.0, exposed=1.5, idle=3.0)
    for name in ("wall", "compute", "nccl", "exposed", "idle"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name))


def test_there_is_none_without_a_gpu():
    profiled = Profiled(torch.device("cpu"))
    profiled.start()
    torch.ones(3).sum()
    profiled.stop()
    assert profiled.found() is None
