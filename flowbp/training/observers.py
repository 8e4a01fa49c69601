"""Who watches a run, and the simplest watcher: a file of JSON lines."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Protocol, runtime_checkable

from torch import Tensor

from flowbp.components import calling, during, is_ours
from flowbp.disk import saving
from flowbp.files import open_to_append, write_whole
from flowbp.training.early_stop import HeldOutFigures
from flowbp.training.metrics import Metrics, figures


class Observer(Protocol):
    """Is told what a run does; an exception of its own stops the run."""

    def row(self, metrics: Metrics) -> None:
        """An optimizer step is done."""
        ...

    def pictures(self, step: int, images: Tensor, prompts: Sequence[str]) -> None:
        """Sample pictures (n, 3, H, W) in [0, 1] on the CPU, after `step` steps; 0 is before."""
        ...

    def close(self) -> None:
        """The run is over, for whatever reason; called once."""
        ...


@runtime_checkable
class ResumableObserver(Observer, Protocol):
    """An observer that keeps something from one process of a run to the next.

    What it kept may hold steps that are done again, or miss the last one, after a kill.
    """

    def begin(self, rows: Sequence[Metrics]) -> None:
        """The run begins after the steps of these rows, none for a new one; called first."""
        ...


@runtime_checkable
class EvaluationObserver(Observer, Protocol):
    """An observer that is told of the evaluations on held-out prompts inside the run."""

    def evaluations(self, rows: Sequence[HeldOutFigures]) -> None:
        """There is one more, the last of these; or the run goes on, and these are from before."""
        ...


def tell(observers: Sequence[Observer], event: Callable[[Any], object], kind: Any = None) -> None:
    """Tell observers of an event, one after the other.

    Args:
        observers: of a run.
        event: calls a method of one.
        kind: of the observers that want to be told; None is all.

    Raises:
        ComponentError: an observer raised something; those after it are not told. An OSError of an
            observer of the library's own passes, as it is the disk's.

    Example:
        >>> tell([], lambda observer: observer.close())
    """
    for observer in observers:
        if kind is None or isinstance(observer, kind):
            tell_one(observer, event)


def tell_one(observer: Any, event: Callable[[Any], object]) -> None:
    """Tell an observer of an event.

    Args:
        observer: any.
        event: calls a method of it.

    Raises:
        ComponentError: as in `tell`.

    Example:
        >>> tell_one(JsonLines(Path("metrics.jsonl")), lambda observer: observer.close())
    """
    if is_ours(observer):
        event(observer)
        return
    with calling("observer", observer):
        event(observer)


@contextmanager
def closed_after(observers: Sequence[Observer]) -> Iterator[Callable[[], None]]:
    """Close all observers after the block, whatever happens in it or in one of them.

    Args:
        observers: of a run.

    Yields:
        What closes them before the end of the block, so that a failure is raised within it.

    Raises:
        ComponentError: an observer could not be closed. If the block failed, that is raised, with
            a note on the observer.

    Example:
        >>> with closed_after([]) as close:
        ...     close()
    """
    left = list(observers)

    def close() -> None:
        failures: list[Exception] = []
        while left:
            try:
                with during("the closing of the observers"):
                    tell_one(left.pop(), lambda observer: observer.close())
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


class JsonLines:
    """One JSON object a line for each step, on disk as soon as the step is done.

    It is standard JSON: a figure that is undefined or not finite is `null`. The file is made with
    the first row, and replaces an earlier one; a run that goes on first brings it to where it
    was.

    Args:
        path: of the file; its folder is made if it is missing.

    Example:
        >>> from tempfile import mkdtemp
        >>> path = Path(mkdtemp()) / "metrics.jsonl"
        >>> lines = JsonLines(path)
        >>> lines.row(
        ...     Metrics(step=1, reward=0.5, reward_std=0.1, loss=float("inf"), gradient_norm=1.0,
        ...             learning_rate=1e-5, residual_0=0.0, residual_1=None, velocity_calls=9,
        ...             seconds=2.0)
        ... )
        >>> row = json.loads(path.read_text())
        >>> row["reward"], row["loss"], row["residual_1"]
        (0.5, None, None)
        >>> lines.close()
    """

    def __init__(self, path: Path) -> None:
        self._path = Path(path)
        self._file: IO[str] | None = None

    def begin(self, rows: Sequence[Metrics]) -> None:
        """Replace the file by the lines of these rows, at once."""
        if rows:
            write_whole(self._path, "".join(map(_line, rows)))
            with self._saving():
                self._file = open_to_append(self._path)

    def row(self, metrics: Metrics) -> None:
        """Write a line and flush it."""
        with self._saving():
            if self._file is None:
                write_whole(self._path, "")
                self._file = open_to_append(self._path)
            self._file.write(_line(metrics))
            self._file.flush()

    def pictures(self, step: int, images: Tensor, prompts: Sequence[str]) -> None:
        """Nothing: pictures are not figures."""

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    @contextmanager
    def _saving(self) -> Iterator[None]:
        with saving(self._path, "the lines of the steps before are unharmed"):
            try:
                yield
            except OSError:
                # What the disk did not take is still pending, and would be refused again.
                with suppress(OSError):
                    self.close()
                self._file = None
                raise


def _line(metrics: Metrics) -> str:
    row = {name: _standard(value) for name, value in figures(metrics).items()}
    return json.dumps(row, allow_nan=False) + "\n"


def _standard(value: float | None) -> float | None:
    return value if value is None or math.isfinite(value) else None
