"""Interrupts held back while nothing may be half done."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold back SIGINT and SIGTERM until the block is done, then deliver them.

    An optimizer that is interrupted half-way leaves some parameters of this step and some of the
    one before. Python delivers signals to the main thread only, so elsewhere, and where the system
    handles a signal itself, there is nothing to hold back.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in _SIGNALS}
    caught: dict[int, Callable[[int, FrameType | None], Any]] = {
        number: handler for number, handler in handlers.items() if callable(handler)
    }
    held: dict[int, FrameType | None] = {}
    for number in caught:
        signal.signal(number, held.__setitem__)
    try:
        yield
    finally:
        for number, handler in caught.items():
            signal.signal(number, handler)
        for number, frame in held.items():
            caught[number](number, frame)
