"""Where the time of a GPU goes: computing, talking to others, or waiting for its host."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import attrs
import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.measurement import synchronize

_WORK = ("kernel", "gpu_memcpy", "gpu_memset")
Span = tuple[float, float]


@attrs.frozen(kw_only=True)
class GpuTime:
    """Seconds of a stretch of time on one GPU.

    Args:
        wall: the whole of it.
        compute: in which anything ran but NCCL.
        nccl: in which a kernel of NCCL ran; its waiting for other GPUs is in it.
        exposed: those of NCCL in which nothing else ran.
        idle: in which nothing ran at all, as the host had queued nothing.
    """

    wall: float
    compute: float
    nccl: float
    exposed: float
    idle: float

    @classmethod
    def of(cls, events: Iterable[Mapping[str, Any]], wall: float) -> GpuTime | None:
        """Of the events of a trace, in microseconds; None where there are none of a GPU."""
        computed, sent = list[Span](), list[Span]()
        for event in events:
            if event.get("cat") in _WORK:
                span = (event["ts"], event["ts"] + event["dur"])
                (sent if event["name"].startswith("nccl") else computed).append(span)
        if not computed and not sent:
            return None
        compute, busy = covered(computed) / 1e6, covered([*computed, *sent]) / 1e6
        return cls(
            wall=wall,
            compute=compute,
            nccl=covered(sent) / 1e6,
            exposed=busy - compute,
            idle=max(wall - busy, 0.0),
        )


def covered(spans: Iterable[Span]) -> float:
    """The length of a union of spans."""
    total, end = 0.0, float("-inf")
    for first, last in sorted(spans):
        total += max(last - max(first, end), 0.0)
        end = max(end, last)
    return total


class Profiled:
    """Measures a `GpuTime` from `start` to `stop`."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        # Its first start takes seconds, for which others would wait in the stretch.
        with self._profile():
            synchronize(device)

    def _profile(self) -> profile:
        kind = ProfilerActivity.CUDA if self.device.type == "cuda" else ProfilerActivity.CPU
        return profile(activities=[kind])

    def start(self) -> None:
        synchronize(self.device)
        self._running = self._profile()
        self._running.start()
        self._begun = time.perf_counter()

    def stop(self) -> None:
        synchronize(self.device)
        self._wall = time.perf_counter() - self._begun
        self._running.stop()

    def found(self) -> GpuTime | None:
        """Reads the trace, which takes a while; None on the CPU."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "trace.json"
            self._running.export_chrome_trace(str(file))
            return GpuTime.of(json.loads(file.read_text())["traceEvents"], self._wall)
