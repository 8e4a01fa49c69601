"""Ctrl-C and SIGTERM while a command is at work: both are raised, and neither is lost."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from flowbp.cli.start import SIGNALS, end_process

_MOMENT = 0.01


@contextmanager
def interruptible() -> Iterator[None]:
    """Have SIGTERM, which schedulers send before they kill, stop the block as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    ours = {number for number, handler in before.items() if handler is end_process}
    default = {n for n, handler in before.items() if handler is signal.default_int_handler}
    taken, interrupt = {signal.SIGTERM, *ours, *default}, _Interrupt()
    for number in taken:
        signal.signal(number, interrupt)
    try:
        with interrupt.sent_again():
            yield
    except Exception as error:
        # Late, as this is there before what the command needs. A launcher sends a signal to those
        # that are left where one has failed.
        from flowbp.rank_errors import RankEndedError

        if not interrupt.came or isinstance(error, RankEndedError):
            raise
        stopped = KeyboardInterrupt()
        for note in getattr(error, "__notes__", ()):
            stopped.add_note(note)
        # A library had it end as an error of its own.
        raise stopped from error
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_IGN if number in ours else before[number])


class _Interrupt:
    """Handles signals by an interrupt that is raised, and is not lost where none can be."""

    def __init__(self) -> None:
        self.came: int | None = None
        self._sending, self._early = False, False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.came = number
        if self._sending:
            self._early = True
            return
        raise KeyboardInterrupt

    @contextmanager
    def sent_again(self) -> Iterator[None]:
        """Send the signal again if it came within a callback, out of which nothing is raised."""
        before, timers = sys.unraisablehook, list[threading.Timer]()

        def again(lost: sys.UnraisableHookArgs) -> None:
            if self.came is None or not issubclass(lost.exc_type, KeyboardInterrupt):
                before(lost)
                return
            self._early = True
            while self._early:
                # On a busy machine a timer can run out before its start returns, still in here.
                self._sending, self._early = True, False
                timers.append(threading.Timer(_MOMENT, os.kill, (os.getpid(), self.came)))
                timers[-1].daemon = True
                timers[-1].start()
                self._sending = False

        sys.unraisablehook = again
        try:
            yield
        finally:
            sys.unraisablehook = before
            for timer in timers:
                timer.cancel()
