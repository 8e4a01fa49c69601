"""How many samples fit into memory at a time, found by trying."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import attrs

from flowbp.short_memory import is_short_memory
from flowbp.training.memory import Memory

RESERVE = 0.1
"""The share of the free memory that is left free: for fragments, and for what varies."""


@attrs.frozen
class Fit:
    """How many samples fit at a time.

    Args:
        count: of them; 0 if not even one does.
        free: bytes that were there for them.
        each: bytes that one more takes.

    Example:
        >>> Fit(count=4, free=2**30, each=2**28).count
        4
    """

    count: int
    free: int
    each: int


def fit(memory: Memory, work: Callable[[int], object], most: int, *, owed: int = 0) -> Fit:
    """Find how many samples fit at a time, from the memory that one and two of them take.

    `peak(n) = fixed + n each`, and the largest n with `peak(n) <= (1 - RESERVE) (free - owed)`.

    Args:
        memory: of the device.
        work: works on so many samples at a time.
        most: the largest number that is wanted, at least 1.
        owed: bytes that will be allocated later by something else.

    Returns:
        What was found, at most `most`.

    Example:
        >>> class Toy:
        ...     def free(self):
        ...         return 1000
        ...     def peak(self, work):
        ...         return work()
        >>> fit(Toy(), lambda count: 100 + 150 * count, 8)
        Fit(count=5, free=1000, each=150)
    """
    free, peaks = max(memory.free() - owed, 0), list[int]()
    try:
        # Once unmeasured: kernels are chosen, and gradients allocated that then stay.
        work(1)
        free = max(memory.free() - owed, 0)
        for count in (1, 2)[:most]:
            peaks.append(memory.peak(partial(work, count)))
    except Exception as error:
        if not is_short_memory(error):
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


def fit_downwards(
    memory: Memory, work: Callable[[int], object], sizes: Sequence[int], *, owed: int = 0
) -> Fit:
    """Find the first of some sizes that fits, by trying one after another.

    For work that is compiled for every size, where each that is tried costs time, and the first
    mostly fits.

    Args:
        memory: of the device.
        work: works on so many samples at a time.
        sizes: the largest first, at least one.
        owed: bytes that will be allocated later by something else.

    Returns:
        What was found; a count of 0 if none fits.

    Example:
        >>> class Toy:
        ...     def free(self):
        ...         return 1000
        ...     def peak(self, work):
        ...         return work()
        >>> fit_downwards(Toy(), lambda count: 100 + 150 * count, (8, 4, 2))
        Fit(count=4, free=1000, each=175)
    """
    for count in sizes:
        free = max(memory.free() - owed, 0)
        try:
            # Once unmeasured: kernels are chosen, and gradients allocated that then stay.
            work(count)
            free = max(memory.free() - owed, 0)
            peak = memory.peak(partial(work, count))
        except Exception as error:
            if not is_short_memory(error):
                raise
            peak = free + 1
        if peak <= int(free * (1 - RESERVE)):
            return Fit(count, free, peak // count)
    return Fit(0, free, peak // sizes[-1])


def even(largest: int, samples: int) -> int:
    """A size at most `largest` that parts `samples` well: a divisor of it if one is near.

    Args:
        largest: at least 1.
        samples: of the whole.

    Returns:
        The size.

    Example:
        >>> even(7, 8), even(3, 8), even(6, 7), even(9, 8), even(5, 10)
        (4, 2, 4, 8, 5)
    """
    largest = min(largest, samples)
    divisor = next(size for size in range(largest, 0, -1) if samples % size == 0)
    parts = -(-samples // largest)
    return divisor if 2 * divisor > largest else -(-samples // parts)
