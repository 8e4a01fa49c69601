"""How a command starts: before it is imported, an interrupt ends it with one line."""

from __future__ import annotations

import os
import signal
import sys

# Imports no more: until `guarded` is called, an interrupt is a traceback.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import FrameType

INTERRUPTED = 130
"""The exit code after Ctrl-C or SIGTERM."""

SIGNALS = (signal.SIGINT, signal.SIGTERM)
_NOTHING = "interrupted; nothing was done"


def start(module: str, arguments: Sequence[str] | None) -> int:
    """Call a module's `main`; without arguments, the process is there for the command alone."""

    def command() -> int:
        from importlib import import_module

        # Late, because importing torch takes seconds.
        code: int = import_module(module).main(arguments)
        return code

    return guarded(command, process=arguments is None)


def guarded(command: Callable[[], int], *, process: bool) -> int:
    """Call a command so that a signal ends it with one line, and return its exit code."""
    # While a library is imported, an interrupt that is raised may end as an error of the library,
    # or be lost. So it ends the command's own process at once, until `interruptible` raises it.
    if process:
        _handle(end_process)
    try:
        code = command()
    except KeyboardInterrupt:
        print(_NOTHING, file=sys.stderr)
        code = INTERRUPTED
    finally:
        if process:
            # The exit code is decided, and holds.
            _handle(signal.SIG_IGN)
    if process and code == INTERRUPTED:
        # Python would end itself by SIGINT where the interrupt came while it ran a text as code.
        from contextlib import suppress

        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):
                stream.flush()
        os._exit(code)
    return code


def end_process(number: int, frame: FrameType | None) -> None:
    """Handle a signal by ending the process at once."""
    os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, f"{_NOTHING}\n".encode())
    os._exit(INTERRUPTED)


def _handle(handler: Callable[[int, FrameType | None], object] | signal.Handlers) -> None:
    for number in SIGNALS:
        # A job in the background, or under nohup, was started to ignore it.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)
