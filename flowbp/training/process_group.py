"""The processes that torchrun started join, or each says why it cannot."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from flowbp.training.distributed import ProcessRanks
from flowbp.training.launch import Launch, LaunchError
from flowbp.training.ranks import ALONE, Ranks

_PATIENCE = timedelta(days=30)
"""How long a process waits for the others, which may load, save or evaluate; the system says at
once when one of them has ended."""


@contextmanager
def joined(launch: Launch) -> Iterator[Ranks]:
    """Join the processes that `torchrun` started, each on a GPU of its own where there are GPUs.

    A process alone joins nothing.

    Raises:
        LaunchError: the environment does not say where the processes meet, or they cannot.

    Example:
        >>> with joined(Launch()) as ranks:
        ...     ranks.size
        1
    """
    if launch.size == 1:
        yield ALONE
        return
    if not dist.is_available():
        raise LaunchError(
            f"{launch.size} processes cannot train together, as this torch was built without "
            "torch.distributed; start one process, or install a torch that has it"
        )
    ranks = _joined(launch)
    yield ranks
    # Not after a failure, where it would wait for those that have not noticed it yet.
    ranks.watch.end()
    dist.destroy_process_group()


def _joined(launch: Launch) -> ProcessRanks:
    gpu = launch.gpu if dist.is_nccl_available() else None
    device = None if gpu is None else torch.device("cuda", gpu)
    if device is not None:
        torch.cuda.set_device(device)
    # Not exported explicitly, and not there where torch.distributed was left out of torch.
    torch_distributed: Any = dist
    try:
        store, rank, size = next(torch_distributed.rendezvous("env://", launch.rank, launch.size))
    except ValueError as error:
        raise LaunchError(
            f"the {launch.size} processes do not know where to meet ({error}); start with torchrun"
        ) from error
    except RuntimeError as error:
        raise _unmet(launch, error) from error
    try:
        backend = "gloo" if device is None else "cpu:gloo,cuda:nccl"
        _refuse_other_backends(store, rank, size, backend)
        # With its device NCCL connects now, and not in the first sum.
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, device_id=device)
        control = dist.new_group(backend="gloo", timeout=_PATIENCE)
        if device is not None:
            _try_nccl(device, size)
    except RuntimeError as error:
        raise _unmet(launch, error) from error
    return ProcessRanks(launch, control, store)


def _refuse_other_backends(store: Any, rank: int, size: int, backend: str) -> None:
    """Refuse that some have a GPU and others none, where they would wait for each other."""
    store.set(f"flowbp/backend/{rank}", backend)
    found = [bytes(store.get(f"flowbp/backend/{each}")).decode() for each in range(size)]
    other = next((each for each in range(size) if found[each] != found[0]), None)
    if other is not None:
        raise LaunchError(
            f"rank {other} would meet the others over {found[other]}, and rank 0 over {found[0]}: "
            "one of them has no GPU of its own; start as many processes on each machine as it has "
            "GPUs, or set CUDA_VISIBLE_DEVICES= for all to train on the CPU"
        )


def _try_nccl(device: torch.device, size: int) -> None:
    one = torch.ones((), device=device)
    dist.all_reduce(one)
    if one.item() != size:
        raise RuntimeError(f"NCCL gives {one.item():g} as the sum of {size} ones")


def _unmet(launch: Launch, error: Exception) -> LaunchError:
    said = " ".join(str(error).split())
    if "NCCL" in said:
        return LaunchError(
            f"rank {launch.rank} cannot reach the GPUs of the others over NCCL ({said}); "
            "NCCL_DEBUG=INFO shows what it tries, NCCL_SOCKET_IFNAME names the network between "
            "machines, and each process needs a GPU of its own; CUDA_VISIBLE_DEVICES= trains on "
            "the CPU"
        )
    address, port = (os.environ.get(name, "?") for name in ("MASTER_ADDR", "MASTER_PORT"))
    return LaunchError(
        f"rank {launch.rank} cannot join the {launch.size} processes that meet at {address}, port "
        f"{port} ({said}); see that all have started and reach that address (--rdzv-endpoint of "
        "torchrun), and where a machine has several networks name the one between them in "
        "GLOO_SOCKET_IFNAME"
    )
