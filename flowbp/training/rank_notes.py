"""How the processes of a run know of each other's end: notes that all read, and a watch."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
import torch.distributed as dist

from flowbp.rank_errors import RankEndedError

FAILED, INTERRUPTED, LOST, ENDED = "failed", "interrupted", "lost", "ended"

_MOMENT, _INSTANT = 0.01, 0.0005
_TAG = 17


class Notes:
    """What each process says of its own end, or another of it, in the store of the launcher."""

    def __init__(self, store: Any, rank: int, size: int) -> None:
        self._store, self.rank, self.size = store, rank, size
        self._lost: int | None = None

    def write(self, what: str, rank: int | None = None) -> None:
        """Note something of a process, of this one if none is named."""
        # The process that keeps the notes may be the one that has ended.
        with suppress(RuntimeError):
            self._store.set(_key(what, self.rank if rank is None else rank), "")

    def first_answer(self, question: str, answer: str) -> str:
        """What was answered first; this answer where nothing was, or the store is lost."""
        with suppress(RuntimeError):
            key = f"flowbp/answer/{question}"
            return bytes(self._store.compare_set(key, "", answer)).decode()
        return answer

    def write_lost(self, rank: int) -> None:
        """Note that the connection to a process is broken, unless that has said why."""
        if self.end_of(rank) is None:
            # The store may be lost with it.
            self._lost = rank
            self.write(LOST, rank)

    def lowest(self, what: str) -> int | None:
        """The lowest rank of which something is noted."""
        with suppress(RuntimeError):
            return next((r for r in range(self.size) if self._has(what, r)), None)
        return None

    def without(self, what: str) -> list[int]:
        """The ranks of which something is not noted."""
        with suppress(RuntimeError):
            return [rank for rank in range(self.size) if not self._has(what, rank)]
        return []

    def end_of(self, rank: int) -> str | None:
        """What is noted of a process."""
        with suppress(RuntimeError):
            kinds = (FAILED, LOST, INTERRUPTED, ENDED)
            return next((what for what in kinds if self._has(what, rank)), None)
        return None

    def failure(self, error: BaseException | None = None) -> RankEndedError | None:
        """What to raise because another process has failed or was lost."""
        failed = self.lowest(FAILED)
        if failed is not None and failed != self.rank:
            return _ended(f"rank {failed} failed; its own message says why", error)
        lost = self.lowest(LOST)
        lost = self._lost if lost is None else lost
        if lost is not None:
            return _ended(
                "another process of the run ended without a message: "
                f"rank {lost} was killed, or its machine was lost or short of memory",
                error,
            )
        return None

    def failure_within(self, seconds: float) -> RankEndedError | None:
        """The same, waiting as long for what is not noted yet of all."""
        end = time.monotonic() + seconds
        while True:
            found = self.failure()
            if found is not None or time.monotonic() >= end:
                return found
            if all(self.end_of(rank) for rank in range(self.size)):
                return None
            time.sleep(_MOMENT)

    def wait_for(self, done: Callable[[], bool], *, every: float = 1.0) -> None:
        """Wait for what happens on all, and look every so many seconds whether all are there.

        Raises:
            RankEndedError: one is not.
        """
        looked = time.monotonic()
        while not done():
            if time.monotonic() - looked > every:
                failure = self.failure()
                if failure is not None:
                    raise failure
                looked = time.monotonic()
            time.sleep(_INSTANT)

    def cause_within(self, seconds: float, error: BaseException) -> BaseException | None:
        """The end of another process that has made an exchange fail; None if none has ended."""
        end = time.monotonic() + seconds
        while True:
            found = self.failure(error)
            if found is not None:
                return found
            if self.lowest(INTERRUPTED) is not None:
                return KeyboardInterrupt()
            if time.monotonic() >= end:
                return None
            time.sleep(_MOMENT)

    def _has(self, what: str, rank: int) -> bool:
        return bool(self._store.check([_key(what, rank)]))


class Watch:
    """Notes that the process before this one in a ring was lost, as soon as its connection is.

    A thread waits for a word that comes at the end. So a death is noted by a living process even
    while all of them compute, and wherever a launcher's signal comes first.
    """

    def __init__(self, notes: Notes, group: Any) -> None:
        self._notes, self._group = notes, group
        self._thread = threading.Thread(target=self._wait, daemon=True, name="flowbp watch")
        self._thread.start()

    def _wait(self) -> None:
        before = (self._notes.rank - 1) % self._notes.size
        try:
            dist.recv(torch.zeros(1), src=before, group=self._group, tag=_TAG)
        except RuntimeError:
            self._notes.write_lost(before)

    def end(self) -> None:
        """End the watch, on all processes alike."""
        after = (self._notes.rank + 1) % self._notes.size
        with suppress(RuntimeError):
            dist.send(torch.zeros(1), dst=after, group=self._group, tag=_TAG)
        self._thread.join()


class Waiting:
    """What takes place on all: where it takes long, the first process says once whom it waits for.

    All enter it in the same order.
    """

    def __init__(self, notes: Notes, *, after: float = 180.0) -> None:
        self._notes, self._after = notes, after
        self._number = 0
        self._since: float | None = None
        threading.Thread(target=self._look, daemon=True, name="flowbp waiting").start()

    def __enter__(self) -> None:
        self._number, self._since = self._number + 1, time.monotonic()

    def __exit__(self, *_: object) -> None:
        self._since = None

    def _look(self) -> None:
        said = 0
        while True:
            time.sleep(self._after / 20)
            number, since = self._number, self._since
            if since is None or number == said or time.monotonic() - since < self._after:
                continue
            said = number
            self._notes.write(f"waiting {number}")
            # The others that wait have said so by then.
            time.sleep(self._after / 10)
            if self._notes.rank == 0 and (self._number, self._since) == (number, since):
                self._say(number)

    def _say(self, number: int) -> None:
        absent = self._notes.without(f"waiting {number}")
        named = ", ".join(map(str, absent))
        failed = self._notes.lowest(FAILED)
        why = "" if failed is None else f"; rank {failed} failed and has not ended"
        if absent:
            minutes = round(self._after / 60)
            print(f"waiting for rank {named}, {minutes} minutes now{why}", file=sys.stderr)


def _ended(what: str, error: BaseException | None) -> RankEndedError:
    said = " ".join(str(error).split()) if error is not None else ""
    return RankEndedError(f"{what} ({said})" if said else what)


def _key(what: str, rank: int) -> str:
    return f"flowbp/{what}/{rank}"
