"""How far a long job is, on a terminal or in a log, and how long it still takes."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from flowbp.adapters.extras import require
from flowbp.evaluation import Progress, counted

_QUIET = 10.0
_SHARE = 0.1


@contextmanager
def told_progress(
    what: str,
    total: int,
    *,
    unit: str = "prompt",
    clock: Callable[[], float] = time.perf_counter,
) -> Iterator[Progress]:
    """A bar on a terminal, elsewhere a line at the start and some with the time left.

    A line in a log comes ten seconds after the last at the earliest, and the later the longer the
    job has run; where there was one, a last one tells what it took.

    Args:
        what: is done, such as ``evaluating before training``.
        total: of the units.
        unit: what is counted, in the singular.
        clock: seconds from any origin.

    Yields:
        What the job calls with ``(done, total)``.

    Example:
        >>> with told_progress("encoding", 3) as progress:
        ...     pass
    """
    if not sys.stderr.isatty():
        print(f"{what}: {counted(total, unit)}", file=sys.stderr, flush=True)
        yield _Lines(what, clock)
        return
    tqdm = require("tqdm", extra="run").tqdm
    with tqdm(total=total, desc=what, unit=unit, leave=False) as bar:
        yield lambda done, _: bar.update(done - bar.n)


class _Lines:
    def __init__(self, what: str, clock: Callable[[], float]) -> None:
        self._what, self._clock = what, clock
        self._began = self._last = clock()

    def __call__(self, done: int, total: int) -> None:
        now = self._clock()
        spent = now - self._began
        if done == total:
            if self._last > self._began:
                took = timedelta(seconds=round(spent))
                print(f"{self._what}: {done}/{total}, took {took}", file=sys.stderr, flush=True)
            return
        if now - self._last < max(_QUIET, _SHARE * spent):
            return
        self._last = now
        left = timedelta(seconds=round(spent / done * (total - done)))
        print(f"{self._what}: {done}/{total}, {left} left", file=sys.stderr, flush=True)
