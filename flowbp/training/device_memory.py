"""A device's memory, and how many samples of a piece of work fit into it at a time."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import attrs
import torch

from flowbp.memory_errors import is_out_of_memory
from flowbp.training.ranks import Ranks

GIB = 2**30


class Memory(Protocol):
    """A device's memory, in bytes."""

    def free(self) -> int:
        """What can still be allocated."""

    def peak(self, work: Callable[[], object], /) -> int:
        """Do a piece of work; the most that was allocated meanwhile, above the present."""


@attrs.frozen
class CudaMemory:
    """The memory of a CUDA device."""

    device: torch.device

    def free(self) -> int:
        # What the device has free, and what torch's allocator holds unused.
        unused = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
        free: int = torch.cuda.mem_get_info(self.device)[0]
        return free + unused

    def peak(self, work: Callable[[], object], /) -> int:
        # Resets torch's own record.
        before: int = torch.cuda.memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        work()
        return torch.cuda.max_memory_allocated(self.device) - before


def memory_of(device: torch.device) -> Memory | None:
    """The memory that portions are fitted into: a CUDA device's; elsewhere nothing is fitted."""
    return CudaMemory(device) if device.type == "cuda" else None


def release_memory(device: torch.device) -> None:
    """Free what nothing uses any more, and give it back to a CUDA device."""
    # On the CPU too: the frames of a failed step hold one another, as from Python 3.12 on the frame
    # of a generator in a traceback holds its caller's, whose arguments hold the traceback.
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


RESERVE = 0.1
"""The share of the free memory that is left free: for fragments, and for what varies."""


@attrs.frozen
class Fit:
    """How many samples fit at a time; 0 if not even one does."""

    count: int
    # Bytes that were there for them, and that one more takes.
    free: int
    each: int


def largest_fit(memory: Memory, work: Callable[[int], object], most: int, *, owed: int = 0) -> Fit:
    """Find how many samples fit at a time, from the memory that one and two of them take.

    `peak(n) = fixed + n each`, and the largest n with `peak(n) <= (1 - RESERVE) (free - owed)`.
    """
    free, peaks = max(memory.free() - owed, 0), list[int]()
    try:
        # Once unmeasured: kernels are chosen, and gradients allocated that then stay.
        work(1)
        free = max(memory.free() - owed, 0)
        for count in (1, 2)[:most]:
            peaks.append(memory.peak(partial(work, count)))
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        # That many do not fit, which is all there was to find out.
        return Fit(len(peaks), free, peaks[0] if peaks else free)
    usable = int(free * (1 - RESERVE))
    if most == 1:
        return Fit(int(peaks[0] <= usable), free, peaks[0])
    first, second = peaks
    each = max(second - first, 1)
    count = (usable - max(first - each, 0)) // each
    return Fit(min(most, max(count, 0)), free, each)


def first_fit(
    memory: Memory, work: Callable[[int], object], sizes: Sequence[int], *, owed: int = 0
) -> Fit:
    """Find the first of some sizes, the largest first, that fits, by trying one after another."""
    for count in sizes:
        free = max(memory.free() - owed, 0)
        try:
            # Once unmeasured: kernels are chosen, and gradients allocated that then stay.
            work(count)
            free = max(memory.free() - owed, 0)
            peak = memory.peak(partial(work, count))
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            peak = free + 1
        if peak <= int(free * (1 - RESERVE)):
            return Fit(count, free, peak // count)
    return Fit(0, free, peak // sizes[-1])


CAUTION = 0.25
"""The share that is left free where a step that runs out of memory cannot be repeated."""


def lockstep_fit(
    memory: Memory,
    work: Callable[[int], object],
    sizes: Sequence[int],
    ranks: Ranks,
    *,
    owed: int = 0,
) -> Fit:
    """Find a size that fits on all processes, by the same calls on each and without a failure.

    If memory grows at most in proportion, m > n samples take at most `m / n peak(n)` bytes. So all
    go on from the smallest size to the largest that then fits everywhere, until none is larger. A
    large part that does not grow makes this too careful. `sizes` begin with the largest. Where
    memory runs out all the same, that is raised: the others cannot be told.
    """
    count = sizes[-1]
    # Once unmeasured: kernels are chosen, and gradients allocated that then stay.
    work(count)
    free = max(memory.free() - owed, 0)
    while True:
        peak = memory.peak(partial(work, count))
        fits = int(free * (1 - CAUTION)) * count // max(peak, 1)
        agreed = min(ranks.exchange(fits))
        larger = next((size for size in sizes if count < size <= agreed), None)
        if larger is None:
            return Fit(count, free, peak // count)
        count = larger


def even_size(largest: int, samples: int) -> int:
    """A size at most `largest` that divides `samples` well: a divisor of it if one is near."""
    largest = min(largest, samples)
    divisor = next(size for size in range(largest, 0, -1) if samples % size == 0)
    parts = -(-samples // largest)
    return divisor if 2 * divisor > largest else -(-samples // parts)
