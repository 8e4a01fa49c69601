"""Tasks as processes: trainings one after another, evaluations side by side, failures passed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

import attrs
import torch

from examples.paper.settings import Paper
from examples.paper.tasks import Row, Task, Training
from flowbp.config import ConfigurationError, Problem, dump
from flowbp.files import write_atomically
from flowbp.settings.folder import LOCK, locked, name_holders
from flowbp.training.hold_signals import uninterrupted

_MOMENT = 0.2
_SHOWN = 5
"""Lines of a log that a failure shows."""
# What it adds to the messages of its processes is longer than they are: lines of its log, and a
# traceback with a list of them.
_OF_TORCHRUN = re.compile(
    r"^[A-Z]\d{4} \S+ \d+ torch/distributed/.*\n?"
    r"|^Traceback .*\n(?:[ \t].*\n)*torch\.distributed\.elastic\..*\n?(?:=+\n(?:[^=].*\n)*=+\n?)?",
    re.MULTILINE,
)


class Started(Protocol):
    """A process."""

    @property
    def pid(self) -> int:
        """Its number."""

    def poll(self) -> int | None:
        """Its exit code; None while it runs."""

    def terminate(self) -> None:
        """Ask it to save and end."""

    def wait(self) -> int:
        """Its exit code, once it has ended."""


Start = Callable[[Sequence[str], Path, Mapping[str, str], int], Started]
"""Starts a command that writes to a log, with some more of the environment, and holds a lock."""


def start(command: Sequence[str], log: Path, environment: Mapping[str, str], lock: int) -> Started:
    """Start a process that Ctrl-C reaches through this one alone."""
    with log.open("ab") as stream:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            start_new_session=True,
            # It goes on if this one is killed, and no second may begin beside it.
            pass_fds=[lock],
        )


def execute(paper: Paper, *, start: Start = start) -> list[str]:
    """Do what is left, and return what failed, a line each."""
    folder = paper.settings.folder
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        stack.enter_context(_ended_by_hangup())
        run = _Execution(paper, start, _claim(folder, stack))
        for task in paper.tasks:
            _refuse_in_use(task)
        for path, values in paper.files.items():
            write_atomically(path, dump(values))
        for phase in sorted({task.phase for task in paper.tasks}):
            tasks = [task for task in paper.tasks if task.phase == phase]
            # A run has all GPUs, an evaluation one.
            places = [None] if phase == Training.phase else _gpus(paper.settings.gpus)
            run.all_of(tasks, places)
    return run.failed


@contextmanager
def _ended_by_hangup() -> Iterator[None]:
    """Have SIGHUP, which a terminal sends when it is closed, end the block as SIGTERM does."""
    before = signal.getsignal(signal.SIGHUP)
    main = threading.current_thread() is threading.main_thread()
    # Under nohup it is ignored.
    if not main or before is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


def _claim(folder: Path, stack: ExitStack) -> int:
    try:
        return stack.enter_context(locked(folder))
    except BlockingIOError as error:
        raise ConfigurationError([Problem("folder", str(error.strerror), "")]) from error


def _refuse_in_use(task: Task) -> None:
    """Raise if a process that this one has not started is at work on a task, on the same GPUs."""
    if (task.folder / LOCK).exists() and not task.done:
        with ExitStack() as stack:
            _claim(task.folder, stack)


def _gpus(count: int) -> Sequence[str | None]:
    if count == 1 or not torch.cuda.is_available():
        return [None] * count
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else map(str, range(torch.cuda.device_count()))
    return list(names)[:count]


@attrs.frozen
class _Begun:
    """A task at work, with the place that it has, since when, and where its log began."""

    task: Task
    process: Started
    place: str | None
    since: float
    written: int


@attrs.define
class _Execution:
    paper: Paper
    start: Start
    lock: int
    failed: list[str] = attrs.field(factory=list)

    def all_of(self, tasks: Sequence[Task], places: Sequence[str | None]) -> None:
        """Do tasks, each at a place that is free."""
        waiting, free, running = list(tasks), list(places), list[_Begun]()
        try:
            while waiting or running:
                while waiting and free:
                    task = waiting.pop(0)
                    if self._wanted(task):
                        # An interrupt ends what is in `running`.
                        with uninterrupted():
                            running.append(self._begun(task, free.pop(0)))
                            self._name_holders(running)
                for each in list(running):
                    code = each.process.poll()
                    if code is not None:
                        running.remove(each)
                        self._name_holders(running)
                        free.append(each.place)
                        self._ended(each, code)
                if running:
                    time.sleep(_MOMENT)
        except BaseException:
            for each in running:
                each.process.terminate()
            for each in running:
                each.process.wait()
            raise

    def _name_holders(self, running: Sequence[_Begun]) -> None:
        name_holders(self.lock, [each.process.pid for each in running])

    def _wanted(self, task: Task) -> bool:
        """Whether something is left to do, and can be done."""
        if task.done:
            self._settle(task)
            return False
        if isinstance(task, Row) and task.training and not task.training.done:
            self.failed.append(f"{task.name}: not evaluated, as its run is not finished")
            return False
        if isinstance(task, Training):
            _refuse_in_use(task)
        return True

    def _begun(self, task: Task, place: str | None) -> _Begun:
        log = self._log(task)
        log.parent.mkdir(parents=True, exist_ok=True)
        written = log.stat().st_size if log.exists() else 0
        print(f"{task.name}: begun, see {log}", flush=True)
        environment = {} if place is None else {"CUDA_VISIBLE_DEVICES": place}
        process = self.start(task.command(), log, environment, self.lock)
        return _Begun(task, process, place, time.monotonic(), written)

    def _ended(self, begun: _Begun, code: int) -> None:
        task, log = begun.task, self._log(begun.task)
        if code == 0 and task.done:
            self._settle(task)
            hours = (time.monotonic() - begun.since) / 3600
            print(f"{task.name}: done in {hours:.2f} hours", flush=True)
            return
        written = log.read_bytes()[begun.written :].decode(errors="replace")
        own = _OF_TORCHRUN.sub("", written)
        print(f"{task.name}: failed with exit code {code}; the end of its log:", flush=True)
        print(*(f"  {line}" for line in own.splitlines()[-_SHOWN:]), sep="\n", flush=True)
        self.failed.append(f"{task.name}: exit code {code}, see {log}")

    def _settle(self, task: Task) -> None:
        if isinstance(task, Training) and not self.paper.settings.keep_state:
            task.release()

    def _log(self, task: Task) -> Path:
        return self.paper.settings.folder / "logs" / f"{task.name.replace('/', '-')}.log"
