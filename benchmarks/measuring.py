"""What all benchmarks measure alike: time, memory, and where they ran."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterable, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from flowbp.training import Metrics, Portions

GIB = 2**30


class Recorder:
    """Keeps the rows of a training, and measures memory from the second step on.

    The first step allocates the optimizer's state and warms up what is chosen at run time.
    """

    def __init__(self) -> None:
        self.rows: list[Metrics] = []
        self.chosen: list[Portions] = []

    def row(self, metrics: Metrics) -> None:
        """Keep it."""
        self.rows.append(metrics)
        if len(self.rows) == 1 and torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()

    def portions(self, step: int, portions: Portions, told: str) -> None:
        """Keep them, and print the line."""
        self.chosen.append(portions)
        print(f"step {step}: {told}", flush=True)

    def pictures(self, step: int, images: Tensor, prompts: Sequence[str]) -> None:
        """Nothing: pictures are not measured."""

    def close(self) -> None:
        """Nothing is open."""

    def pull_of(self, typed: int) -> int:
        """The pull of the last step, where nothing else was told the typed one."""
        return self.chosen[-1].pull if self.chosen else typed

    @property
    def seconds(self) -> float:
        """The median step, the first left out where there are more."""
        later = sorted(row.seconds for row in self.rows[1:] or self.rows)
        return later[len(later) // 2]


def peak_gib() -> float | None:
    """The most that was allocated on the device since the last reset; None on the CPU."""
    return torch.cuda.max_memory_allocated() / GIB if torch.cuda.is_available() else None


def synchronize(device: torch.device) -> None:
    """Wait for a device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matmul_rate(device: torch.device) -> float:
    """TFLOP/s of a large product: 8192 in bfloat16 on a GPU, 1024 in float32 on the CPU."""
    gpu = device.type == "cuda"
    side, dtype = (8192, torch.bfloat16) if gpu else (1024, torch.float32)
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    seconds = []
    for _ in range(10):
        synchronize(device)
        begun = time.perf_counter()
        a @ b
        synchronize(device)
        seconds.append(time.perf_counter() - begun)
    return 2 * side**3 / sorted(seconds)[5] / 1e12


def weights_gib(modules: Iterable[nn.Module]) -> float:
    """What the parameters and buffers of some networks take."""
    tensors = (t for module in modules for t in (*module.parameters(), *module.buffers()))
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors) / GIB


@attrs.frozen
class Environment:
    """Where a benchmark ran."""

    device: str
    torch: str
    diffusers: str
    python: str

    @classmethod
    def here(cls) -> Environment:
        """This machine and these packages."""
        import diffusers

        cuda = torch.cuda.is_available()
        return cls(
            device=torch.cuda.get_device_name() if cuda else platform.processor() or "CPU",
            torch=torch.__version__,
            diffusers=diffusers.__version__,
            python=platform.python_version(),
        )


def markdown(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
