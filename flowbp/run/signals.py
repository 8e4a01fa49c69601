"""Ctrl-C and termination of a command before there is anything to save: a line, an exit code."""

from __future__ import annotations

import os
import signal
import sys

# Imports no more: until `guarded` is called, an interrupt is a traceback.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

INTERRUPTED = 130
"""The exit code after Ctrl-C or SIGTERM."""

SIGNALS = (signal.SIGINT, signal.SIGTERM)
_NOTHING = "interrupted; nothing was done"


def guarded(command: Callable[[], int], *, process: bool) -> int:
    """Call a command, which imports what it needs, so that a signal ends it with one line.

    While a library is imported, an interrupt that is raised may end as an error of the library, or
    be lost. A process of its own is therefore ended at once, until the command lets signals be
    raised, as `stopped_gently` does.

    Args:
        command: returns the exit code.
        process: whether the process is there for the command alone.

    Returns:
        The exit code.

    Example:
        >>> guarded(lambda: 0, process=False)
        0
    """
    if process:
        _handle(end)
    try:
        code = command()
    except KeyboardInterrupt:
        print(_NOTHING, file=sys.stderr)
        code = INTERRUPTED
    finally:
        if process:
            # How it ended is said, and holds.
            _handle(signal.SIG_IGN)
    if process and code == INTERRUPTED:
        # Python would end itself by SIGINT where the interrupt came while it ran a text as code.
        from contextlib import suppress

        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):
                stream.flush()
        os._exit(code)
    return code


def end(number: int, frame: FrameType | None) -> None:
    """Handle a signal by ending the process at once.

    Args:
        number: of the signal.
        frame: at which it came.

    Example:
        See `guarded`.
    """
    os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, f"{_NOTHING}\n".encode())
    os._exit(INTERRUPTED)


def _handle(handler: Callable[[int, FrameType | None], object] | signal.Handlers) -> None:
    for number in SIGNALS:
        # A job in the background, or under nohup, was started to ignore it.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)
