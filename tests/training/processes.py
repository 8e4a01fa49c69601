"""Several processes that train together, none of which can hang a test."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs
import torch

import flowbp

ROOT = Path(flowbp.__file__).parents[1]
PATIENCE = 100
"""Seconds until all processes are killed; one that hangs in Python has ended itself before."""


@attrs.frozen
class Ended:
    """How the processes ended, in the order of their ranks."""

    codes: list[int]
    # What a process printed: of one that failed, its error and notes first.
    told: list[str]
    # What the job returned; None of one that failed.
    found: list[Any]


def kill_group(process: subprocess.Popen[str]) -> None:
    """Kill a process that leads a session, with all that it has started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def workers(launcher: int) -> dict[int, int]:
    """The numbers of the processes that torchrun has started, by their ranks."""
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        # One that has just ended is gone, or has no environment any more.
        with suppress(OSError):
            parent = int((place / "stat").read_text().rpartition(")")[2].split()[1])
            pairs = (place / "environ").read_bytes().split(b"\0") if parent == launcher else ()
            for pair in pairs:
                name, _, value = pair.partition(b"=")
                if name == b"RANK":
                    found[int(value)] = int(place.name)
    return found


def _kill_workers(launcher: int, ranks: Sequence[int]) -> None:
    there = workers(launcher)
    for rank in ranks:
        if rank in there:
            with suppress(ProcessLookupError):
                os.kill(there[rank], signal.SIGKILL)


def torchrun(
    module: str, arguments: list[str], *paths: Path, kill: tuple[Sequence[int], float] = ((), 0.0)
) -> tuple[int, str, str]:
    """Two processes of a module under torchrun itself: its exit code, and what they print.

    Some ranks are killed after so many seconds.
    """
    launched = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    searched = os.pathsep.join(map(str, (ROOT, *paths)))
    environment = {**os.environ, "PYTHONPATH": searched, "OMP_NUM_THREADS": "1"}
    environment["GLOO_SOCKET_IFNAME"] = "lo"
    two = subprocess.Popen(
        [*launched, "-m", module, *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    killing = threading.Timer(kill[1], _kill_workers, (two.pid, kill[0]))
    killing.start()
    try:
        printed, errors = two.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        # What torchrun starts leads sessions of its own; it kills them after 30 seconds.
        two.terminate()
        two.communicate(timeout=50)
        raise
    finally:
        killing.cancel()
        kill_group(two)
    return two.returncode, printed, errors


class Together:
    """Starts jobs of `distributed_jobs` in several processes, one job at a time.

    One with `imports` of `flowbp` starts the command under this name.
    """

    def __init__(self, folder: Path, imports: str = "training") -> None:
        self._folder, self._number, self._imports = folder, 0, imports
        self._server: subprocess.Popen[str] | None = None

    def start(self, size: int, name: str, /, **arguments: Any) -> list[int]:
        """Start a job in so many processes, and return their ids; `finish` must follow."""
        if self._server is None:
            self._server = self._begun()
        self._number += 1
        self._size, self._place = size, self._folder / str(self._number)
        self._place.mkdir()
        job = {
            "size": size,
            "name": name,
            "arguments": arguments,
            "folder": str(self._place),
        }
        self._server.stdin.write(json.dumps(job) + "\n")
        self._server.stdin.flush()
        return self._answer()

    def finish(self) -> Ended:
        """Wait for the end of all of them."""
        codes = self._answer()
        files = [self._place / f"found{rank}.pt" for rank in range(self._size)]
        found = [torch.load(p, weights_only=False) if p.exists() else None for p in files]
        return Ended(codes, self._told(), found)

    def run(self, size: int, name: str, /, **arguments: Any) -> list[Any]:
        """Run a job to its end, and return what each process found."""
        self.start(size, name, **arguments)
        ended = self.finish()
        assert ended.codes == [0] * size, "\n".join(ended.told)
        return ended.found

    def close(self) -> None:
        """Let the server go."""
        if self._server is not None:
            kill_group(self._server)
            self._server.stdin.close(), self._server.stdout.close()
            self._server = None

    def _begun(self) -> subprocess.Popen[str]:
        paths = (str(ROOT), os.environ.get("PYTHONPATH", ""))
        return subprocess.Popen(
            [sys.executable, "-m", "tests.training.process_server", self._imports],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )

    def _answer(self) -> list[int]:
        """The next line of the server, or the end of all after `PATIENCE`."""
        end, line = time.monotonic() + PATIENCE, b""
        pipe = self._server.stdout.fileno()
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([pipe], [], [], max(end - time.monotonic(), 0))
            # A byte at a time: what came after it must not be waited for in a buffer.
            more = os.read(pipe, 1) if ready else b""
            if not more:
                self.close()
                why = f"hung for {PATIENCE} s and were killed" if not ready else "lost their server"
                raise AssertionError("\n".join([f"the processes {why}", *self._told()]))
            line += more
        return json.loads(line)

    def _told(self) -> list[str]:
        logs = [self._place / f"log{rank}" for rank in range(self._size)]
        return [log.read_text() if log.exists() else "" for log in logs]
