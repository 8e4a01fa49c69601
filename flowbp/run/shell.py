"""What the library's commands have in common: exit codes, messages, signals."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

MISTAKE, STOPPED, INTERRUPTED = 2, 1, 130
"""Exit codes: a mistake of the user's; it stopped; Ctrl-C."""


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
    """Print a message, with an error's notes, to stderr.

    Args:
        message: text or an error.
        code: to return.

    Returns:
        `code`.

    Example:
        >>> told("no such file", MISTAKE)
        2
    """
    for line in (message, *getattr(message, "__notes__", ())):
        print(line, file=sys.stderr)
    return code


@contextmanager
def stopped_gently() -> Iterator[None]:
    """Let SIGTERM, which schedulers send before they kill, stop the block as Ctrl-C does.

    Example:
        >>> with stopped_gently():
        ...     pass
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
