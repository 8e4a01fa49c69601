"""Progress of a long job, on a terminal or in a log, with the time left."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from flowbp.evaluation import Progress, counted
from flowbp.extras import require
from flowbp.training.progress import draws_bars

_QUIET, _SHARE = 10.0, 0.1
"""Between two lines of a log: seconds, and the share of the job's time, whichever is more."""


@contextmanager
def report_progress(
    what: str,
    total: int,
    *,
    unit: str = "prompt",
    clock: Callable[[], float] = time.perf_counter,
) -> Iterator[Progress]:
    """A bar on a terminal; in a log a line at the start, then some with the time left."""
    if not draws_bars(sys.stderr):
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
