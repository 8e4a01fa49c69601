"""What the library's commands have in common: exit codes, messages, signals."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from flowbp.adapters.extras import require
from flowbp.components import foreign_frames
from flowbp.run import signals

MISTAKE, STOPPED = 2, 1
"""Exit codes: a mistake of the user's; it stopped."""

_MOMENT = 0.01
_NEEDED = ("cattrs", "dependency_injector", "jinja2", "PIL", "tqdm", "yaml")


def require_packages() -> None:
    """Make sure that what a command needs besides the models is installed.

    Raises:
        ModuleNotFoundError: with how to install what is missing.

    Example:
        >>> require_packages()
    """
    for module in _NEEDED:
        require(module, extra="run")


def listed(folder: Path, descriptions: Mapping[str, str]) -> str:
    """What of a list there is in a folder, a line each.

    Args:
        folder: that a command has written to.
        descriptions: by name.

    Returns:
        The lines, without a newline at the end.

    Example:
        >>> from tempfile import mkdtemp
        >>> folder = Path(mkdtemp())
        >>> (folder / "samples").mkdir()
        >>> listed(folder, {"samples": "pictures during training", "report.html": "to read"})
        '  samples      pictures during training'
    """
    width = max(map(len, descriptions)) + 2
    found = {name: text for name, text in descriptions.items() if (folder / name).exists()}
    return "\n".join(f"  {name:<{width}}{text}" for name, text in found.items())


def find_modules_here() -> None:
    """Let dotted paths name modules of the working folder.

    `python -m` looks there and a console script does not; a configuration shall mean the same to
    both.

    Example:
        >>> find_modules_here()
        >>> bool({"", os.getcwd()} & set(sys.path))
        True
    """
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.append(os.getcwd())


def told(message: object, code: int) -> int:
    """Print a message to stderr, with an error's notes and the frames of others' code in it.

    Args:
        message: text or an error.
        code: to return.

    Returns:
        `code`.

    Example:
        >>> told("no such file", MISTAKE)
        2
    """
    frames = foreign_frames(message) if isinstance(message, BaseException) else []
    hint = ["  (--debug shows the library's own frames too)"] if frames else []
    for line in (message, *getattr(message, "__notes__", ()), *frames, *hint):
        print(line, file=sys.stderr)
    return code


def told_short_memory(error: BaseException, cure: str, *, kept: str) -> int:
    """Print that memory ran out, where, and what to do.

    Args:
        error: that says so, see `flowbp.short_memory`; its notes follow in a line.
        cure: what helps, unless the error says itself.
        kept: what is said of what there is, unless notes do.

    Returns:
        The exit code.

    Example:
        >>> told_short_memory(MemoryError("no room"), "lower run.batch", kept="nothing was saved")
        1
    """
    # Late, because torch is only there once it is known to be installed.
    from flowbp.training.stages import ExhaustedError

    said = " ".join(str(error).split()) or type(error).__name__
    exhausted = isinstance(error, ExhaustedError)
    print(said if exhausted else f"out of memory ({said}); {cure}", file=sys.stderr)
    print("; ".join(getattr(error, "__notes__", [kept])), file=sys.stderr)
    return STOPPED


@contextmanager
def stopped_gently() -> Iterator[None]:
    """Have SIGTERM, which schedulers send before they kill, and Ctrl-C stop the block alike.

    Of a command's own process, what is left to do after the block is to say how it ended; a
    further signal does not cut that off.

    Example:
        >>> with stopped_gently():
        ...     pass
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in signals.SIGNALS}
    ours = {number for number, handler in before.items() if handler is signals.end}
    default = {n for n, handler in before.items() if handler is signal.default_int_handler}
    taken, interrupt = {signal.SIGTERM, *ours, *default}, _Interrupt()
    for number in taken:
        signal.signal(number, interrupt)
    try:
        with interrupt.sent_again():
            yield
    except Exception as error:
        if not interrupt.came:
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

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.came = number
        raise KeyboardInterrupt

    @contextmanager
    def sent_again(self) -> Iterator[None]:
        """Send the signal again if it came within a callback, out of which nothing is raised."""
        before, timers = sys.unraisablehook, list[threading.Timer]()

        def again(lost: sys.UnraisableHookArgs) -> None:
            if self.came is None or not issubclass(lost.exc_type, KeyboardInterrupt):
                before(lost)
                return
            timers.append(threading.Timer(_MOMENT, os.kill, (os.getpid(), self.came)))
            timers[-1].daemon = True
            timers[-1].start()

        sys.unraisablehook = again
        try:
            yield
        finally:
            sys.unraisablehook = before
            for timer in timers:
                timer.cancel()
