"""Work beside training: one piece at a time, in a thread."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class Background:
    """Does one piece of work at a time in a thread; what it raises is raised where it is awaited.

    A process that ends by itself waits for the work.
    """

    def __init__(self) -> None:
        self._thread: ThreadPoolExecutor | None = None
        self._work: Future[object] | None = None
        self.failed = False
        """Whether the last piece of work that was awaited has failed."""

    def start(self, work: Callable[[], object]) -> None:
        """Begin a piece of work, once the one before is done."""
        self.wait()
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="flowbp-checkpoint")
        self._work = self._thread.submit(work)

    def wait(self) -> None:
        """Wait for its end, and raise what it failed with; once."""
        if self._work is None:
            return
        # An interrupt of the waiting leaves it to be waited for again.
        self._work.exception()
        done, self._work = self._work, None
        self.failed = done.exception() is not None
        done.result()

    def check(self) -> None:
        """Raise what it has failed with, if so, without waiting."""
        if self._work is not None and self._work.done():
            self.wait()
