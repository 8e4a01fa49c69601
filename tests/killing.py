"""Runs of the command in processes of their own, to be killed at any moment."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs

import flowbp

# The libraries are imported once; each run is then a fork, which starts within milliseconds.
_SERVER = """
import gc, importlib, json, os, sys
import torch
from diffusers import StableDiffusion3Pipeline
from transformers import CLIPModel, CLIPTextModelWithProjection, CLIPTokenizerFast
from flowbp.cli.evaluate import execution as _
from flowbp.cli.run import execution
from flowbp.settings import load
from tests.killing import die_in_disk_call

main = importlib.import_module(sys.argv[1]).main
# No run looks through the libraries for garbage.
gc.freeze()

for line in sys.stdin:
    job = json.loads(line)
    child = os.fork()
    if child == 0:
        log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1), os.dup2(log, 2)
        if job["disk_calls"] is not None:
            die_in_disk_call(job["disk_calls"])
        code = main(job["arguments"])
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def die_in_disk_call(number: int) -> None:
    """Have this process killed when it calls the disk for the n-th time."""
    left = number

    def fatal(call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **named: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **named)

        return counted

    for name in ("fsync", "mkdir", "rename", "replace", "rmdir", "unlink"):
        setattr(os, name, fatal(getattr(os, name)))


def is_alive(process: int) -> bool:
    """Whether there is a process of this number."""
    return Path(f"/proc/{process}").exists()


@attrs.frozen
class Ended:
    """How a run ended: its exit code (-9 if it was killed), what it said, how long it took."""

    code: int
    told: str
    seconds: float


class Processes:
    """Starts runs, one at a time."""

    def __init__(self, folder: Path, command: str = "flowbp.run") -> None:
        self._log = folder / "log"
        paths = (str(Path(flowbp.__file__).parents[1]), os.environ.get("PYTHONPATH", ""))
        self._server = subprocess.Popen(
            [sys.executable, "-c", _SERVER, command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
        )

    def start(self, *arguments: str, disk_calls: int | None = None) -> int:
        """Start a run and return its process id; `finish` must follow."""
        job = {"arguments": arguments, "log": str(self._log), "disk_calls": disk_calls}
        self._server.stdin.write(json.dumps(job) + "\n")
        self._server.stdin.flush()
        process = int(self._server.stdout.readline())
        self._began = time.monotonic()
        return process

    def finish(self) -> Ended:
        """Wait for the end of the run that was started."""
        code = int(self._server.stdout.readline())
        return Ended(code, self._log.read_text(), time.monotonic() - self._began)

    def run(
        self, *arguments: str, kill_after: float | None = None, disk_calls: int | None = None
    ) -> Ended:
        """Run; kill after some seconds, or when the disk is called for the n-th time."""
        process = self.start(*arguments, disk_calls=disk_calls)
        if kill_after is not None:
            time.sleep(kill_after)
            # A run that has ended is waited for by the server, and its number not used again.
            if is_alive(process):
                os.kill(process, signal.SIGKILL)
        return self.finish()

    def close(self) -> None:
        """Let the server go."""
        self._server.stdin.close()
        self._server.wait()
        self._server.stdout.close()
