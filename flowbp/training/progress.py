"""Progress on a terminal as a bar, elsewhere as a few lines."""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from flowbp.adapters.compilation import compiled_graphs
from flowbp.extras import require
from flowbp.significant_digits import written
from flowbp.training.batching import Portions
from flowbp.training.metrics import HeldOutMetrics, Metrics
from flowbp.training.mid_run_evaluation import EarlyStop
from flowbp.training.observers import Observer

if TYPE_CHECKING:
    from tqdm import tqdm

LINES = 10
"""How many lines a run prints at most, besides its first, where there is no terminal."""


PERIOD = 30.0
"""Seconds from one line about compiling to the next."""


def draws_bars(stream: TextIO) -> bool:
    """Whether a stream is a terminal with room for a bar; some say that they are 0 columns wide."""
    if not stream.isatty():
        return False
    try:
        return os.get_terminal_size(stream.fileno()).columns > 0
    except (OSError, ValueError):
        return True


class ProgressBar(Observer):
    """Step, reward, gradient norm, residuals and anchor where there are any, and time left.

    Every evaluation inside the run is a line of its own, also above a bar. A stream that is no
    terminal gets about ten lines instead of a bar. Until the first step of a model that is
    `compiled` is done, a line every half minute says how far that is.
    """

    def __init__(
        self,
        total: int,
        *,
        stop: EarlyStop | None = None,
        compiled: bool = False,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.perf_counter,
        period: float = PERIOD,
    ) -> None:
        if total < 1:
            raise ValueError(f"`total` must be at least 1 optimizer step, got {total}")
        self._total = total
        self._stop, self._compiled, self._period = stop, compiled, period
        self._stepped = threading.Event()
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock
        self._first_done: float | None = None
        self._before = 0
        self._bar: tqdm[Any] | None = None
        if draws_bars(self._stream):
            self._bar = require("tqdm", extra="run").tqdm(
                total=total, file=self._stream, dynamic_ncols=True, unit="step"
            )

    def begin(self, rows: Sequence[Metrics]) -> None:
        """Count on from the steps of an earlier process."""
        self._before = len(rows)
        if self._bar is not None:
            self._bar.initial = self._bar.n = self._before
            self._bar.refresh()
        if self._compiled:
            threading.Thread(target=self._count_graphs, args=[self._clock()], daemon=True).start()

    def _count_graphs(self, began: float) -> None:
        while not self._stepped.wait(self._period):
            graphs, read = compiled_graphs()
            self._write(
                f"compiling and fitting portions, {_time(self._clock() - began)}: {graphs} graphs "
                f"so far, {read} of them as an earlier run has left them"
            )

    def row(self, metrics: Metrics) -> None:
        """Move the bar, or print a line if it is time for one."""
        self._stepped.set()
        if self._first_done is None:
            self._first_done = self._clock()
        if self._bar is not None:
            self._bar.set_postfix_str(_listed(metrics, ", "), refresh=False)
            self._bar.update()
            return
        every = math.ceil(self._total / LINES)
        done = metrics.step - self._before
        if done == 1 or metrics.step == self._total or metrics.step % every == 0:
            # The first step compiles and chooses kernels: it counts only while it is alone.
            passed = metrics.seconds if done == 1 else self._clock() - self._first_done
            left = passed / max(1, done - 1) * (self._total - metrics.step)
            print(
                f"step {metrics.step}/{self._total}  {_listed(metrics, '  ')}  {_time(left)} left",
                file=self._stream,
                flush=True,
            )

    def portions(self, step: int, portions: Portions, message: str) -> None:
        """Print the message, before the first step as it is."""
        first = step == self._before + 1 and self._first_done is None
        self._write(message if first else f"step {step}: {message}")

    def evaluations(self, rows: Sequence[HeldOutMetrics]) -> None:
        """Print the metrics of the last one, and how near the run is to its end."""
        if not rows:
            return
        last = rows[-1]
        metrics = "  ".join(f"{name} {written(value, 4)}" for name, value in last.means.items())
        self._write(f"held out, after step {last.step}: {metrics}{self._nearness(rows)}")

    def _write(self, line: str) -> None:
        if self._bar is not None:
            self._bar.write(line, file=self._stream)
        else:
            print(line, file=self._stream, flush=True)

    def _nearness(self, rows: Sequence[HeldOutMetrics]) -> str:
        best = None if self._stop is None else self._stop.best(rows)
        if self._stop is None or best is None:
            return ""
        name, waited = self._stop.metric, self._stop.waited(rows)
        found = f"; best {name} {written(best.means[name], 4)} after step {best.step}"
        change = "fall" if self._stop.less_is_better(rows) else "rise"
        return f"{found}, {waited} of {self._stop.patience} without a {change}" if waited else found

    def close(self) -> None:
        """Leave the bar as it stands."""
        self._stepped.set()
        if self._bar is not None:
            self._bar.close()


def _listed(metrics: Metrics, separator: str) -> str:
    listed = [f"reward {written(metrics.reward, 4)}"]
    # A surrogate that follows the path has none: its segments end where the path does.
    if any(metrics.residuals):
        gaps = ("-" if gap is None else written(gap) for gap in metrics.residuals)
        listed.append(f"residuals {' '.join(gaps)}")
    listed.append(f"gradient {written(metrics.gradient_norm)}")
    if metrics.anchor is not None:
        listed.append(f"anchor {written(metrics.anchor)}")
    return separator.join(listed)


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
