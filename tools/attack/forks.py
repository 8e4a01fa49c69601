"""Processes that start within milliseconds, as forks of one that has imported everything."""

from __future__ import annotations

import functools
import gc
import json
import os
import select
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import attrs

HUNG, BROKEN = "hang", 70
"""What a process that had to be ended is called, and the exit code of one that raised."""


@attrs.frozen
class Ended:
    """How a process ended, and all that it said."""

    # Or minus the signal that killed it.
    code: int
    said: str
    seconds: float
    hung: bool

    @property
    def fault(self) -> str | None:
        """What is wrong whatever was asked for: a traceback, a hang, a strange end."""
        if self.hung:
            return HUNG
        if "Traceback (most recent call last)" in self.said or self.code == BROKEN:
            return "traceback"
        if self.code < 0 and -self.code not in (signal.SIGKILL, signal.SIGTERM):
            return f"died of signal {-self.code}"
        return None


def command(main: Callable[[], int], typed: Sequence[str]) -> Callable[[], int]:
    """A command as it is when it is typed, for `forked`."""

    def call() -> int:
        sys.argv = ["flowbp", *typed]
        return main()

    return call


def forked(
    call: Callable[[], int],
    log: Path,
    *,
    limit: float,
    signals: Sequence[tuple[float, int]] = (),
) -> Ended:
    """Call a function in a fork, and send it signals some seconds after, in order."""
    sys.stdout.flush(), sys.stderr.flush()
    ready, called = os.pipe()
    child = os.fork()
    if child == 0:
        _called(call, log, called)
    os.close(called)
    # A process that is killed before it is called is none of ours.
    os.read(ready, 1), os.close(ready)
    began, handle, hung = time.monotonic(), os.pidfd_open(child), False
    for moment, number in (*signals, (limit, signal.SIGKILL)):
        left = max(0.0, began + moment - time.monotonic())
        if select.select([handle], [], [], left)[0]:
            break
        signal.pidfd_send_signal(handle, number)
        hung = moment == limit
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.close(handle)
    said = log.read_text(encoding="utf-8", errors="replace")
    return Ended(code, said, time.monotonic() - began, hung)


def _called(call: Callable[[], int], log: Path, ready: int | None = None) -> None:
    code = BROKEN
    try:
        place = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for standard in (1, 2):
            os.dup2(place, standard)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if ready is not None:
            os.close(ready)
        code = call()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)


@attrs.frozen
class Tried:
    """One try of an attack, and the end of what its last process said."""

    # With the seed it says what was drawn.
    number: int
    drawn: str
    # `same`, `refused` and the like, or what is wrong.
    outcome: str
    wrong: bool = False
    kills: int = 0
    said: str = ""


def tried(
    attack: Callable[[int, Path], Tried], numbers: Iterable[int], *, jobs: int, folder: Path
) -> Iterator[Tried]:
    """Make tries, several at a time, each in a fork and a folder of its own.

    Args:
        attack: makes the try of a number.
        numbers: of the tries.
        jobs: how many at a time.
        folder: for theirs; that of a try that found something stays.
    """
    # No fork looks through the libraries for garbage.
    gc.freeze()
    left, running = iter(numbers), dict[int, tuple[int, Path]]()
    while True:
        while len(running) < jobs and (number := next(left, None)) is not None:
            place = folder / f"try-{number}"
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True)
            child = os.fork()
            if child == 0:
                _called(functools.partial(_kept, attack, number, place), place / "attack.log")
            running[child] = (number, place)
        if not running:
            return
        number, place = running.pop(os.wait()[0])
        try:
            found = Tried(**json.loads((place / "tried.json").read_text()))
        except FileNotFoundError:
            said = (place / "attack.log").read_text(errors="replace")
            found = Tried(number, "?", "the attack itself failed", wrong=True, said=said[-2000:])
        if not found.wrong:
            shutil.rmtree(place, ignore_errors=True)
        yield found


def _kept(attack: Callable[[int, Path], Tried], number: int, place: Path) -> int:
    found = attack(number, place)
    (place / "tried.json").write_text(json.dumps(attrs.asdict(found)))
    return 0
