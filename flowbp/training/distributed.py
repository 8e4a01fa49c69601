"""The processes that train one model together: each has its part of every batch.

All hold the same parameters. They draw the whole batch, work on their own part of it, and sum the
gradients once a step, so that the step of several is the step of one on the same batch.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from datetime import timedelta
from typing import Any, TypeVar

import attrs
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous

from flowbp.training.hold_signals import uninterrupted
from flowbp.training.memory_stages import Stage, StageOutOfMemoryError
from flowbp.training.randomness import generator
from flowbp.validators import integer

T = TypeVar("T")

_PATIENCE = timedelta(days=30)
"""How long a process waits for the others, which may load, save or evaluate; the system says at
once when one of them has ended."""

_BUCKET = 2**23
"""Elements of gradients that are summed in one call."""

FAILED, INTERRUPTED = "failed", "interrupted"


class LaunchError(ValueError):
    """The environment does not say which of how many processes this one is."""


class RankEndedError(RuntimeError):
    """Another process of the run has ended, and this one cannot go on alone."""


class RanksDifferError(RuntimeError):
    """The processes of a run do not hold the same model, or not the same settings."""


@attrs.frozen
class Launch:
    """Which of how many processes this one is, on all machines and on its own.

    Args:
        rank: its number on all machines, from 0.
        size: how many there are.
        local_rank: its number on its machine, which is that of its GPU.
        local_size: how many there are on that machine.

    Raises:
        ValueError: a number is not below its count.

    Example:
        >>> Launch.of({"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"})
        Launch(rank=5, size=8, local_rank=1, local_size=4)
        >>> Launch.of({})
        Launch(rank=0, size=1, local_rank=0, local_size=1)
    """

    rank: int = attrs.field(default=0, validator=integer(0))
    size: int = attrs.field(default=1, validator=integer(1))
    local_rank: int = attrs.field(default=0, validator=integer(0))
    local_size: int = attrs.field(default=1, validator=integer(1))

    def __attrs_post_init__(self) -> None:
        """Refuse a number that is not below the count."""
        for number, count in ((self.rank, self.size), (self.local_rank, self.local_size)):
            if number >= count:
                raise ValueError(f"`rank` must be below `size`, got {number} of {count}")

    @classmethod
    def of(cls, environment: Mapping[str, str] = os.environ) -> Launch:
        """What `torchrun` wrote into the environment; one process without it.

        Raises:
            LaunchError: what is written there is not whole.
        """
        given = {name: environment[name] for name in ("RANK", "WORLD_SIZE") if name in environment}
        if not given:
            return cls()
        try:
            rank, size = int(given["RANK"]), int(given["WORLD_SIZE"])
            local = int(environment.get("LOCAL_RANK", rank))
            return cls(rank, size, local, int(environment.get("LOCAL_WORLD_SIZE", size)))
        except (KeyError, ValueError) as error:
            raise LaunchError(
                "the environment variables RANK and WORLD_SIZE must be two integers with 0 <= RANK "
                f"< WORLD_SIZE, got {given}; start with torchrun, or unset both"
            ) from error


@attrs.frozen
class _Shortage:
    """That a process ran out of memory, as it is said to the others."""

    stage: Stage
    count: int
    cause: str


class AgreedShortageError(StageOutOfMemoryError):
    """Memory ran out on one process, and all of them know it."""


class Ranks:
    """The processes of a run as one of them sees them; this class is a process alone.

    A step takes the prompts of the whole batch and works on `part` of it. Everything that others
    take part in is called by all in the same order.

    Example:
        >>> import torch
        >>> Ranks().part(4), Ranks().exchange("own"), Ranks().gathered([torch.ones(2)])
        (slice(0, 4, None), ['own'], [tensor([1., 1.])])
    """

    rank = 0
    size = 1

    @property
    def first(self) -> bool:
        """Whether this one prints, writes files and evaluates."""
        return self.rank == 0

    def part(self, count: int) -> slice:
        """This one's samples of a batch of `count`, which `size` divides."""
        if count % self.size:
            raise ValueError(
                f"`count` must be a multiple of the {self.size} processes, got {count}; each works "
                "on as many samples as the others"
            )
        own = count // self.size
        return slice(self.rank * own, (self.rank + 1) * own)

    def exchange(self, value: T) -> list[T]:
        """The values of all, in the order of their ranks.

        Raises:
            RankEndedError: another one has ended.
            AgreedShortageError: another one has run out of memory, or this one, see `agree_on`.
        """
        return [value]

    def gathered(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Each tensor (n, …) joined with those of the others, in one exchange; n may differ."""
        return list(tensors)

    def among_all(self, norms: Tensor) -> Tensor:
        """The norms (n,) of these samples and those of the others."""
        return self.gathered([norms])[0].to(norms.device)

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace every `.grad` by the sum over all, once none has run out of memory."""

    def agree_on(self, error: StageOutOfMemoryError) -> StageOutOfMemoryError:
        """What all repeat the step for, where this one, and perhaps others, ran out of memory."""
        return error

    def reseed(self, seed: int, step: int) -> None:
        """Give the others than the first torch generators of their own for a step.

        Dropout must not draw the same for all; a seed of each step needs no place in a checkpoint.
        """
        if not self.first:
            torch.manual_seed(generator(seed, f"torch of {self.rank} at {step}").initial_seed())

    def wait_for_end(self) -> None:
        """On others than the first, wait until the first has ended, and raise that."""
        while not self.first:
            self.exchange(None)

    def failed(self) -> int | None:
        """The lowest rank that has failed by itself, None if none has said so."""
        return None

    def together(self) -> AbstractContextManager[None]:
        """Have a block end on all as soon as it fails or is interrupted on one.

        What another one's failure causes here, a signal of the launcher say, is a `RankEndedError`.
        From then on signals are ignored, so that what is saved is saved whole.
        """
        return nullcontext()


ALONE = Ranks()


class ProcessRanks(Ranks):
    """Processes that are joined by torch.distributed.

    Gradients go over NCCL or gloo; all else is little, and goes over gloo from host to host, where
    the end of a process is noticed at once.
    """

    def __init__(self, launch: Launch, control: Any, store: Any) -> None:
        self.rank, self.size = launch.rank, launch.size
        self._control, self._store = control, store

    def exchange(self, value: T) -> list[T]:
        """The values of all, as in `Ranks`."""
        found: list[Any] = [None] * self.size
        with self._others_needed(), uninterrupted():
            dist.all_gather_object(found, value, group=self._control)
        for each in found:
            if isinstance(each, _Shortage):
                raise AgreedShortageError(each.stage, each.count, each.cause)
        return found

    def gathered(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """As in `Ranks`, on the CPU."""
        # Every number of fewer bits is one of 64: one transfer, and nothing is rounded.
        device = tensors[0].device
        flat = [each.detach().to(device, torch.float64).flatten() for each in tensors]
        packed = torch.cat(flat).cpu()
        counts = [each.numel() for each in tensors]
        each_rank = [torch.split(one, sizes) for one, sizes in self.exchange((packed, counts))]
        joined = [torch.cat(parts) for parts in zip(*each_rank, strict=True)]
        return [
            whole.reshape(-1, *one.shape[1:]).to(one.dtype)
            for whole, one in zip(joined, tensors, strict=True)
        ]

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """As in `Ranks`; a gradient that only some have is zero on the others."""
        trained = list(parameters)
        # A signal in between would leave the others waiting in the sum.
        with uninterrupted():
            there = self.exchange([parameter.grad is not None for parameter in trained])
            gradients = []
            for number, parameter in enumerate(trained):
                if any(each[number] for each in there):
                    if parameter.grad is None:
                        parameter.grad = torch.zeros_like(parameter)
                    gradients.append(parameter.grad)
            for bucket in _buckets(gradients):
                self._sum(bucket)

    @torch.no_grad()
    def _sum(self, gradients: Sequence[Tensor]) -> None:
        whole = len(gradients) == 1 and gradients[0].is_contiguous()
        flat = gradients[0] if whole else torch.cat([each.flatten() for each in gradients])
        with self._others_needed():
            dist.all_reduce(flat)
        if not whole:
            counts = [each.numel() for each in gradients]
            for gradient, summed in zip(gradients, torch.split(flat, counts), strict=True):
                gradient.copy_(summed.view_as(gradient))

    def agree_on(self, error: StageOutOfMemoryError) -> StageOutOfMemoryError:
        """The shortage of the lowest rank that has one, the same for all."""
        if isinstance(error, AgreedShortageError):
            return error
        try:
            # The others meet this in whatever exchange they have come to.
            self.exchange(_Shortage(error.stage, error.count, error.cause))
        except AgreedShortageError as agreed:
            return agreed
        raise AssertionError("a shortage that was said is raised by every exchange")

    @contextmanager
    def together(self) -> Iterator[None]:
        """As in `Ranks`."""
        try:
            yield
        except RankEndedError:
            _ignore_signals()
            raise
        except KeyboardInterrupt as stop:
            _ignore_signals()
            failed = self.failed()
            if failed is not None and failed != self.rank:
                raise _ended(failed) from stop
            self._note(INTERRUPTED)
            raise
        except BaseException:
            _ignore_signals()
            self._note(FAILED)
            raise

    def failed(self) -> int | None:
        """As in `Ranks`."""
        return self._noted(FAILED)

    @contextmanager
    def _others_needed(self) -> Iterator[None]:
        try:
            yield
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            failed = self.failed()
            if failed is None and self._noted(INTERRUPTED) is not None:
                raise KeyboardInterrupt from error
            raise _ended(failed) from error

    def _note(self, what: str) -> None:
        # The process that keeps the notes may be the one that has ended.
        with suppress(RuntimeError):
            self._store.set(f"flowbp/{what}/{self.rank}", "")

    def _noted(self, what: str) -> int | None:
        with suppress(RuntimeError):
            for rank in range(self.size):
                if self._store.check([f"flowbp/{what}/{rank}"]):
                    return rank
        return None


def _ended(failed: int | None) -> RankEndedError:
    if failed is None:
        return RankEndedError(
            "another process of the run ended without a message: it was killed, or its machine was "
            "lost or short of memory"
        )
    return RankEndedError(f"rank {failed} failed; its own message says why")


def _ignore_signals() -> None:
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)


def _buckets(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Gradients of one dtype and device, as many as make a bucket; a large one by itself."""
    kinds: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for gradient in gradients:
        kind = gradient.dtype, gradient.device
        bucket = kinds.setdefault(kind, [])
        if bucket and sum(each.numel() for each in bucket) + gradient.numel() > _BUCKET:
            yield bucket
            bucket = kinds[kind] = []
        bucket.append(gradient)
    yield from kinds.values()


@contextmanager
def joined(launch: Launch) -> Iterator[Ranks]:
    """Join the processes that `torchrun` started, each on a GPU of its own where there are GPUs.

    A process alone joins nothing.

    Raises:
        LaunchError: the environment does not say where the processes meet.

    Example:
        >>> with joined(Launch()) as ranks:
        ...     ranks.size
        1
    """
    if launch.size == 1:
        yield ALONE
        return
    backend = "gloo"
    if torch.cuda.is_available() and dist.is_nccl_available():
        backend = "cpu:gloo,cuda:nccl"
        if launch.local_rank < torch.cuda.device_count():
            torch.cuda.set_device(launch.local_rank)
    try:
        store, rank, size = next(rendezvous("env://", launch.rank, launch.size))
    except ValueError as error:
        raise LaunchError(
            f"the {launch.size} processes do not know where to meet ({error}); start with torchrun"
        ) from error
    dist.init_process_group(backend, store=store, rank=rank, world_size=size)
    control = dist.new_group(backend="gloo", timeout=_PATIENCE)
    yield ProcessRanks(launch, control, store)
    # Not after a failure, where it would wait for those that have not noticed it yet.
    dist.destroy_process_group()
