"""How long each phase took, over all sessions of a run that was stopped and resumed."""

from __future__ import annotations

import math
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import attrs

from flowbp.config import read_sealed, sealed
from flowbp.evaluation import counted
from flowbp.files import write_atomically

TIMINGS = "timings.json"
_PERIOD = 10.0


@attrs.frozen
class _Sessions:
    sessions: tuple[Mapping[str, float], ...] = attrs.field()

    @sessions.validator
    def _check(self, _: attrs.Attribute[Any], value: tuple[Mapping[str, float], ...]) -> None:
        for phase, seconds in (each for session in value for each in session.items()):
            if not 0 <= seconds < math.inf:
                raise ValueError(f"`sessions` must hold seconds, got {phase}: {seconds}")


class Timings:
    """The seconds of each phase of this session, beside those of the sessions before it."""

    def __init__(
        self, *, clock: Callable[[], float] = time.perf_counter, period: float = _PERIOD
    ) -> None:
        self._clock, self._period = clock, period
        self._first: float | None = None
        self._folder: Path | None = None
        self._earlier: tuple[Mapping[str, float], ...] = ()
        self._own: dict[str, float] = {}

    @property
    def sessions(self) -> int:
        """How many there were, this one included."""
        return len(self._earlier) + 1

    @property
    def sums(self) -> dict[str, float]:
        """Seconds of each phase, over all sessions."""
        found: dict[str, float] = {}
        for session in (*self._earlier, self._own):
            for phase, seconds in session.items():
                found[phase] = found.get(phase, 0.0) + seconds
        return found

    def keep_in(self, folder: Path, earlier: Sequence[Mapping[str, float]] = ()) -> None:
        """Write the file from now on."""
        self._folder, self._earlier = folder, tuple(earlier)
        self._write(self._own)

    @contextmanager
    def phase(self, name: str, doing: str | None = None) -> Iterator[None]:
        """Count the time within as a phase's, also where it ends in an error.

        What it is `doing` is a line on stderr, after the time since the first phase began.
        """
        began, before, over = self._clock(), self._own.get(name, 0.0), threading.Event()
        self._first = began if self._first is None else self._first
        if doing is not None:
            passed = timedelta(seconds=round(began - self._first))
            print(f"{passed}  {doing}", file=sys.stderr, flush=True)
        beat = threading.Thread(target=self._beat, args=(name, before, began, over), daemon=True)
        writing: AbstractContextManager[None] = nullcontext()
        if self._folder is not None:
            beat.start()
        try:
            yield
        except BaseException:
            # The phase's own error is the one to report.
            writing = suppress(OSError)
            raise
        finally:
            self._own[name] = before + self._clock() - began
            over.set()
            if beat.is_alive():
                beat.join()
            with writing:
                self._write(self._own)

    def __str__(self) -> str:
        """All of them in a line."""
        spent = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in self.sums.items())
        several = f" in {counted(self.sessions, 'session')}" if self.sessions > 1 else ""
        return f"{sum(self.sums.values()):.1f} s{several}: {spent}"

    def _beat(self, name: str, before: float, began: float, over: threading.Event) -> None:
        while not over.wait(self._period):
            # What cannot be written now is written, or reported, at the end of the phase.
            with suppress(OSError):
                self._write({**self._own, name: before + self._clock() - began})

    def _write(self, own: Mapping[str, float]) -> None:
        if self._folder is not None:
            sessions = [dict(each) for each in (*self._earlier, own)]
            write_atomically(self._folder / TIMINGS, sealed({"sessions": sessions}))


def read_timings(folder: Path) -> tuple[Mapping[str, float], ...]:
    """The sessions of a run so far."""
    path = folder / TIMINGS
    if not path.exists():
        return ()
    cure = "remove it, and the time of earlier sessions is left out"
    return read_sealed(_Sessions, path, cure=cure).sessions
