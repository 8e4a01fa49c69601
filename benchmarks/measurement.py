"""What all benchmarks measure alike: time, memory, and where they ran."""

from __future__ import annotations

import gc
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest import mock

import attrs
import torch
from torch import nn

from benchmarks.device_waits import Waits
from flowbp.memory_errors import is_out_of_memory
from flowbp.training import Metrics, Observer, OptimizerRecipe, Portions

GIB = 2**30


class Recorder(Observer):
    """Keeps the rows of a training, its peak of memory, and how often the host waited.

    Trying portions out is no part of a step, so that both begin anew once they are chosen. `waits`
    grow while the training runs.
    """

    def __init__(self, waits: Waits | None = None) -> None:
        self.rows: list[Metrics] = []
        self.chosen: list[Portions] = []
        self.last_waits: Waits | None = None
        self._waits, self._before = waits, Waits()

    def row(self, metrics: Metrics) -> None:
        self.rows.append(metrics)
        if self._waits is not None:
            self.last_waits = self._waits - self._before
            self._before = self._waits.copy()

    def portions(self, step: int, portions: Portions, line: str) -> None:
        self.chosen.append(portions)
        print(f"step {step}: {line}", flush=True)
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        if self._waits is not None:
            self._before = self._waits.copy()

    def pull_of(self, typed: int) -> int:
        """The pull of the last step; the given one where none was chosen."""
        return self.chosen[-1].pull if self.chosen else typed

    @property
    def seconds(self) -> float:
        """The median step, the first left out where there are more."""
        later = sorted(row.seconds for row in self.rows[1:] or self.rows)
        return later[len(later) // 2]


@attrs.frozen
class WithState:
    """Builds an optimizer whose state is there from the start: the first step has all's memory."""

    recipe: OptimizerRecipe

    @property
    def learning_rate(self) -> float:
        return self.recipe.learning_rate

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        trained = list(parameters)
        optimizer = self.recipe.build(trained)
        for parameter in trained:
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return optimizer


@contextmanager
def limited_memory(gib: float) -> Iterator[None]:
    """Train as on a GPU of so many GiB: no more is allocated, and no more is said to be free.

    All of it is torch's; a real GPU also holds CUDA's own, about half a GiB.
    """
    limit, whole = int(gib * GIB), torch.cuda.mem_get_info

    def within(device: Any = None) -> tuple[int, int]:
        free = min(whole(device)[0], limit - torch.cuda.memory_reserved(device))
        return max(free, 0), limit

    torch.cuda.set_per_process_memory_fraction(limit / whole()[1])
    try:
        # Portions are fitted into what is free, which is the whole GPU's whatever the limit.
        with mock.patch("torch.cuda.mem_get_info", within):
            yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def peak_gib() -> float | None:
    """The most that was allocated on the device since the last reset; None on the CPU."""
    return torch.cuda.max_memory_allocated() / GIB if torch.cuda.is_available() else None


def collect() -> None:
    """Free what nothing refers to any more, for the allocator to keep, and forget the peak."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def clear() -> None:
    """`collect`, and give back what the allocator keeps; what comes next asks for it anew."""
    collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def fits(work: Callable[[], object]) -> bool:
    """Do a piece of work; False if the device's memory ran out, which is then free again."""
    try:
        work()
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    else:
        return True
    # Past the handler, because the traceback keeps alive what the work had allocated.
    clear()
    return False


@contextmanager
def without_autocast() -> Iterator[None]:
    """What tensors without data need: torch has no autocast for them, and all dtypes are given."""
    with mock.patch("torch.autocast", lambda *_, **__: nullcontext()):
        yield


def synchronize(device: torch.device) -> None:
    """Wait for a device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matmul_rate(device: torch.device) -> float:
    """TFLOP/s of a large product: 8192 in bfloat16 on a GPU, 1024 in float32 on the CPU.

    On a GPU the products are queued, as the host's own time is a tenth of one.
    """
    gpu = device.type == "cuda"
    side, dtype, queued = (8192, torch.bfloat16, 50) if gpu else (1024, torch.float32, 1)
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    seconds = []
    for _ in range(9):
        synchronize(device)
        begun = time.perf_counter()
        for _ in range(queued):
            a @ b
        synchronize(device)
        seconds.append((time.perf_counter() - begun) / queued)
    return 2 * side**3 / sorted(seconds)[4] / 1e12


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
