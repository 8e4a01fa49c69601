"""Forks the processes of `processes.Together`, from one that has imported what they need.

Forked, a process is there within milliseconds. Nothing here has used autograd or a store, whose
threads a fork would lose, with whatever locks they hold.
"""

from __future__ import annotations

import faulthandler
import gc
import importlib
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Mapping
from typing import Any

import torch
import torch._dynamo  # Imported by the first optimizer, which takes seconds.
import torch.distributed as dist

from flowbp.training import Launch, joined

from ..killing import die_in_disk_call
from . import distributed_jobs, sharded_jobs

LIMIT = 60
"""Seconds after which a process that has not ended writes where it is, and ends."""

FLOWBP = "flowbp"
"""The job that is the command, and the argument that has its imports made once. The `path` is where
it looks for modules first; `disk_calls` of a rank is that in which it is killed."""

JOBS = {"": distributed_jobs, "sharded_jobs": sharded_jobs}

COMMAND_NEEDS = (
    "diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3",
    "transformers.models.clip.modeling_clip",
    "transformers.models.clip.tokenization_clip",
    "flowbp.cli.run.execution",
)


def _store() -> tuple[int, int]:
    """A process that holds the store of a job, as torchrun has it, and its port.

    Not one of the job, which may be killed; nor this one, for the sake of its forks.
    """
    reading, writing = os.pipe()
    host = os.fork()
    if host == 0:
        os.close(reading)
        store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        os.write(writing, str(store.port).encode())
        os.close(writing)
        time.sleep(2 * LIMIT)
        os._exit(0)
    # First, as otherwise a host that fails would be waited for.
    os.close(writing)
    port = os.read(reading, 10).decode()
    os.close(reading)
    return host, int(port)


def _act(job: Mapping[str, Any], rank: int) -> int:
    """What one process does; its exit code."""
    size, folder = job["size"], job["folder"]
    log = os.open(f"{folder}/log{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1), os.dup2(log, 2)
    faulthandler.dump_traceback_later(LIMIT, exit=True)
    torch.set_num_threads(1)
    if job["name"] == FLOWBP:
        from flowbp.run import main

        number, count = str(rank), str(size)
        os.environ.update(RANK=number, WORLD_SIZE=count)
        os.environ.update(LOCAL_RANK=number, LOCAL_WORLD_SIZE=count)
        sys.argv = ["flowbp", *job["arguments"]["typed"]]
        sys.path[:0] = job["arguments"].get("path", [])
        fatal = job["arguments"].get("disk_calls", {}).get(number)
        if fatal is not None:
            die_in_disk_call(fatal)
        return main()
    try:
        with joined(Launch(rank, size, rank, size)) as ranks:
            room, _, name = job["name"].rpartition(".")
            found = getattr(JOBS[room], name)(ranks, **job["arguments"])
            torch.save(found, f"{folder}/found{rank}.pt")
    except BaseException as error:
        print(f"{type(error).__name__}: {error}")
        print(*getattr(error, "__notes__", ()), sep="\n")
        traceback.print_exc()
        return 1
    return 0


def _fork(job: Mapping[str, Any], rank: int) -> int:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = _act(job, rank)
        finally:
            sys.stdout.flush(), sys.stderr.flush()
            os._exit(code)
    return child


def serve() -> None:
    """Start a job for each line: first print the ids of its processes, then their exit codes."""
    for line in sys.stdin:
        job = json.loads(line)
        host, port = _store()
        os.environ.update(
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(port),
            TORCHELASTIC_USE_AGENT_STORE="True",
            TORCHELASTIC_RESTART_COUNT="0",
            GLOO_SOCKET_IFNAME="lo",
        )
        children = [_fork(job, rank) for rank in range(job["size"])]
        print(json.dumps(children), flush=True)
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        os.kill(host, signal.SIGKILL)
        os.waitpid(host, 0)
        print(json.dumps(codes), flush=True)


if __name__ == "__main__":
    if FLOWBP in sys.argv[1:]:
        for name in COMMAND_NEEDS:
            importlib.import_module(name)
    # No process looks through the libraries for garbage.
    gc.freeze()
    serve()
