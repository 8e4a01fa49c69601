"""Observers of a run, and those that write its metrics to files."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import attrs
from torch import Tensor

from flowbp.component_errors import calling, during, is_ours
from flowbp.files import open_to_append, saving, write_atomically
from flowbp.training.batching import Portions
from flowbp.training.metrics import HeldOutMetrics, Metrics, metrics_row


class Observer(Protocol):
    """Receives the events of a run; an exception of its own stops the run.

    Any object with these methods will do. One that inherits from this class has them already, as
    methods that do nothing, and overrides those it needs; besides, it may have any of those of
    `FurtherEvents`. Of several processes only the first has observers. A run tries its observers
    before it begins, in a folder that is removed afterwards, if they take a `folder`.

    Example:
        >>> class Best(Observer):
        ...     reward = -math.inf
        ...     def row(self, metrics):
        ...         self.reward = max(self.reward, metrics.reward)
    """

    def row(self, metrics: Metrics) -> None:
        """An optimizer step is done."""
        return

    def pictures(self, step: int, images: Tensor, prompts: Sequence[str]) -> None:
        """Sample pictures (n, 3, H, W) in [0, 1] on the CPU, after `step` steps; 0 is before."""
        return

    def close(self) -> None:
        """The run is over, for whatever reason; called once."""
        return


class FurtherEvents(Protocol):
    """Events that reach an observer that has a method for them."""

    def begin(self, rows: Sequence[Metrics]) -> None:
        """The run begins after the steps of these metrics, none for a new one; called first.

        What an earlier process kept may hold steps that are done again, or miss the last one, after
        a kill.
        """

    def evaluations(self, rows: Sequence[HeldOutMetrics]) -> None:
        """There is one more evaluation inside the run, the last of these.

        Or the run goes on, and these are from before.
        """

    def portions(self, step: int, portions: Portions, message: str) -> None:
        """The portions of the steps were chosen, or lowered; step number `step` has them first."""


def notify(observers: Sequence[Observer], event: str, *values: object) -> bool:
    """Call a method of the observers that have it, one after the other; whether any has.

    What one of others raises becomes a `ComponentError`.
    """
    found = False
    for observer in observers:
        receive = getattr(observer, event, None)
        if receive is not None:
            found = True
            # An OSError of the library's own passes as it is: it is the disk's.
            with nullcontext() if is_ours(observer) else calling("observer", observer):
                receive(*values)
    return found


def notify_portions(
    observers: Sequence[Observer], step: int, portions: Portions, message: str
) -> None:
    """Hand new portions, whose first step is `step`, to observers; warn if none takes them."""
    if not notify(observers, "portions", step, portions, message):
        warnings.warn(f"step {step}: {message}", stacklevel=2)


@contextmanager
def closed_after(observers: Sequence[Observer]) -> Iterator[Callable[[], None]]:
    """Close all observers after the block, whatever happens in it or in one of them.

    Yields what closes them before the end of the block, so that a failure is raised within it.
    """
    left = list(observers)

    def close() -> None:
        failures: list[Exception] = []
        while left:
            try:
                with during("the closing of the observers"):
                    notify([left.pop()], "close")
            except Exception as error:
                failures.append(error)
        for other in failures[1:]:
            failures[0].add_note(f"besides, {other}")
        if failures:
            raise failures[0]

    try:
        yield close
        close()
    except BaseException as stop:
        try:
            close()
        except Exception as error:
            stop.add_note(f"besides, {error}")
        raise


class JsonLines(Observer):
    """One JSON object a line for each step, on disk as soon as the step is done.

    It is standard JSON: a value that is undefined or not finite is `null`. The file is made with
    the first row, and replaces an earlier one; a run that goes on first brings it to where it was.
    """

    def __init__(self, path: Path) -> None:
        self._path = Path(path)
        self._made = False

    def begin(self, rows: Sequence[Metrics]) -> None:
        """Replace the file by the lines of these rows, at once."""
        if rows:
            self._replace("".join(map(_line, rows)))

    def row(self, metrics: Metrics) -> None:
        """Add a line."""
        if not self._made:
            self._replace("")
        _append(self._path, _line(metrics))

    def _replace(self, lines: str) -> None:
        write_atomically(self._path, lines)
        self._made = True


def _line(metrics: Metrics) -> str:
    row = {name: _standard(value) for name, value in metrics_row(metrics).items()}
    return json.dumps(row, allow_nan=False) + "\n"


def _standard(value: float | None) -> float | None:
    return value if value is None or math.isfinite(value) else None


def _append(path: Path, line: str) -> None:
    with saving(path, "its lines before are unchanged"), open_to_append(path) as file:
        file.write(line)


class History(Observer):
    """Keeps the metrics of every step and evaluation in memory, for the report."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.held_out: tuple[HeldOutMetrics, ...] = ()

    def begin(self, rows: Sequence[Metrics]) -> None:
        """Take over the metrics of an earlier process."""
        self.rows = [metrics_row(row) for row in rows]

    def row(self, metrics: Metrics) -> None:
        """Keep them."""
        self.rows.append(metrics_row(metrics))

    def evaluations(self, rows: Sequence[HeldOutMetrics]) -> None:
        """Keep them."""
        self.held_out = tuple(rows)


class EvaluationLines(Observer):
    """One JSON object a line for each evaluation: `step`, then every metric by its name."""

    def __init__(self, path: Path) -> None:
        self._path = Path(path)

    def evaluations(self, rows: Sequence[HeldOutMetrics]) -> None:
        """Replace the file as a whole, so that a run that goes on repeats no line."""
        lines = (json.dumps({"step": row.step, **row.means}, allow_nan=False) for row in rows)
        write_atomically(self._path, "".join(f"{line}\n" for line in lines))


class PortionLines(Observer):
    """One JSON object a line whenever portions were chosen or lowered, also over several runs."""

    def __init__(self, path: Path) -> None:
        self._path = Path(path)

    def portions(self, step: int, portions: Portions, message: str) -> None:
        """Write a line."""
        row = {"step": step, **attrs.asdict(portions), "told": message}
        _append(self._path, json.dumps(row) + "\n")
