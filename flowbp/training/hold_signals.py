"""Interrupts held back while nothing may be half done."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Mapping
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
    held: Mapping[int, FrameType | None] = {}
    try:
        with held_back() as held:
            yield
    finally:
        for number, frame in held.items():
            handler = signal.getsignal(number)
            if callable(handler):
                handler(number, frame)


@contextmanager
def held_back() -> Iterator[Mapping[int, FrameType | None]]:
    """Hold back SIGINT and SIGTERM, which are in the mapping then, and do not deliver them."""
    held: dict[int, FrameType | None] = {}
    if threading.current_thread() is not threading.main_thread():
        yield held
        return
    handlers = {number: signal.getsignal(number) for number in _SIGNALS}
    caught: dict[int, Callable[[int, FrameType | None], Any]] = {
        number: handler for number, handler in handlers.items() if callable(handler)
    }
    for number in caught:
        signal.signal(number, held.__setitem__)
    try:
        yield held
    finally:
        for number, handler in caught.items():
            signal.signal(number, handler)
