"""Several processes that train together, forked from one that has imported what they need."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
import torch

import flowbp

# Forked, a process is there within milliseconds; nothing in the parent has used autograd, whose
# threads a fork would lose.
_SERVER = """
import faulthandler, json, os, signal, sys, time, traceback
import torch
import torch.distributed as dist
from flowbp.training.distributed import Launch, joined
import torch._dynamo  # imported by the first optimizer, which takes seconds
from tests.training import distributed_jobs

LIMIT = 60
if sys.argv[1] == "flowbp":
    from diffusers import StableDiffusion3Pipeline
    from transformers import CLIPModel, CLIPTextModelWithProjection, CLIPTokenizerFast
    from flowbp.cli.run import command, execution, one_voice
    from flowbp.run import main
    from flowbp.settings import load

for line in sys.stdin:
    job, children = json.loads(line), []
    # Not held by one of the processes, as torchrun has it; nor here, where its thread might hold a
    # lock in the moment of a fork.
    reading, writing = os.pipe()
    host = os.fork()
    if host == 0:
        store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        os.write(writing, str(store.port).encode())
        time.sleep(10 * LIMIT)
        os._exit(0)
    port = os.read(reading, 10).decode()
    os.close(reading), os.close(writing)
    os.environ.update(
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=port,
        TORCHELASTIC_USE_AGENT_STORE="True",
        TORCHELASTIC_RESTART_COUNT="0",
        GLOO_SOCKET_IFNAME="lo",
    )
    for rank in range(job["size"]):
        child = os.fork()
        if child == 0:
            log = os.open(f"{job['folder']}/log{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(log, 1), os.dup2(log, 2)
            torch.set_num_threads(1)
            # One that hangs says where, and does not hang the tests.
            faulthandler.dump_traceback_later(LIMIT, exit=True)
            code = 1
            if job["name"] == "flowbp":
                number, size = str(rank), str(job["size"])
                os.environ.update(RANK=number, WORLD_SIZE=size, LOCAL_RANK=number)
                os.environ.update(LOCAL_WORLD_SIZE=size)
                sys.argv = ["flowbp", *job["arguments"]["typed"]]
                code = main()
                sys.stdout.flush(), sys.stderr.flush()
                os._exit(code)
            try:
                with joined(Launch(rank, job["size"], rank, job["size"])) as ranks:
                    act = getattr(distributed_jobs, job["name"])
                    found = act(ranks, **job["arguments"])
                    torch.save(found, f"{job['folder']}/found{rank}.pt")
                code = 0
            except BaseException as error:
                print(f"{type(error).__name__}: {error}")
                print(*getattr(error, "__notes__", ()), sep="\\n")
                traceback.print_exc()
            sys.stdout.flush(), sys.stderr.flush()
            os._exit(code)
        children.append(child)
    print(json.dumps(children), flush=True)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    os.kill(host, signal.SIGKILL)
    os.waitpid(host, 0)
    print(json.dumps(codes), flush=True)
"""


@attrs.frozen
class Ended:
    """How the processes ended, in the order of their ranks."""

    codes: list[int]
    # What a process printed: of one that failed, its error and notes first.
    told: list[str]
    # What the job returned; None of one that failed.
    found: list[Any]


class Together:
    """Starts jobs of `distributed_jobs` in several processes, one job at a time.

    One that `imports` what the command `flowbp` needs starts that under this name.
    """

    def __init__(self, folder: Path, imports: str = "training") -> None:
        self._folder, self._number = folder, 0
        root = str(Path(flowbp.__file__).parents[1])
        paths = (root, os.environ.get("PYTHONPATH", ""))
        self._server = subprocess.Popen(
            [sys.executable, "-c", _SERVER, imports],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=root,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
        )

    def start(self, size: int, name: str, **arguments: Any) -> list[int]:
        """Start a job in so many processes, and return their ids; `finish` must follow."""
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
        return json.loads(self._server.stdout.readline())

    def finish(self) -> Ended:
        """Wait for the end of all of them."""
        codes = json.loads(self._server.stdout.readline())
        told = [(self._place / f"log{rank}").read_text() for rank in range(self._size)]
        files = [self._place / f"found{rank}.pt" for rank in range(self._size)]
        found = [torch.load(p, weights_only=False) if p.exists() else None for p in files]
        return Ended(codes, told, found)

    def run(self, size: int, name: str, **arguments: Any) -> list[Any]:
        """Run a job to its end, and return what each process found."""
        self.start(size, name, **arguments)
        ended = self.finish()
        assert ended.codes == [0] * size, "\n".join(ended.told)
        return ended.found

    def close(self) -> None:
        """Let the server go."""
        self._server.stdin.close()
        self._server.wait()
        self._server.stdout.close()
