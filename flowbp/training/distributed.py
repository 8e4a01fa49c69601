"""Processes joined by torch.distributed, and how a failure of one ends all."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from flowbp.component_errors import ComponentError
from flowbp.rank_errors import RankEndedError
from flowbp.training.hold_signals import uninterrupted
from flowbp.training.launch import Launch
from flowbp.training.memory_stages import UPDATE, StageOutOfMemoryError, in_stage
from flowbp.training.rank_notes import ENDED, FAILED, INTERRUPTED, Notes, Waiting, Watch
from flowbp.training.ranks import AgreedShortageError, Ranks, Shortage

T = TypeVar("T")
Kind = tuple[torch.dtype, torch.device]

_OF_OTHERS = ("gloo", "NCCL", "Connection", "connection")
"""What libraries under torch say of a broken connection."""

_BUCKET = 2**23
"""Elements of gradients that are summed in one call."""

_SOON = 1.0
"""Seconds in which all have noted a signal that they all got."""

_LATE = 5.0
"""Seconds in which it is noted why a connection is broken."""


class ProcessRanks(Ranks):
    """Processes that are joined by torch.distributed.

    Gradients go over NCCL or gloo; all else is little, and goes over gloo from host to host, where
    the end of a process is noticed at once.
    """

    def __init__(self, launch: Launch, control: Any, store: Any) -> None:
        self.rank, self.size = launch.rank, launch.size
        self.control, self.notes = control, Notes(store, launch.rank, launch.size)
        self.watch, self._stopped = Watch(self.notes, control), False
        self.waiting = Waiting(self.notes)

    def exchange(self, value: T) -> list[T]:
        """The values of all, as in `Ranks`."""
        found: list[Any] = [None] * self.size
        with self._others_needed(), self.waiting, uninterrupted():
            dist.all_gather_object(found, value, group=self.control)
        for each in found:
            if isinstance(each, Shortage):
                raise AgreedShortageError(each.stage, each.count, each.cause)
        return found

    def agreed(self, question: str, answer: str) -> str:
        """As in `Ranks`."""
        return self.notes.first_answer(question, answer)

    def collected(self, value: T) -> list[T]:
        """As in `Ranks`."""
        found: list[Any] | None = [None] * self.size if self.first else None
        with self._others_needed(), self.waiting, uninterrupted():
            dist.gather_object(value, found, dst=0, group=self.control)
        return found or []

    @torch.no_grad()
    def spread(self, parameters: Iterable[nn.Parameter]) -> None:
        """As in `Ranks`."""
        with self._others_needed(), uninterrupted():
            for parameter in parameters:
                sent = parameter.detach().contiguous()
                dist.broadcast(sent, src=0)
                parameter.copy_(sent)

    def mesh(self, shard: int, device: torch.device) -> Any:
        """As in `Ranks`."""
        if self.size % shard:
            raise ValueError(f"`shard` must divide the {self.size} processes, got {shard}")
        from torch.distributed.device_mesh import init_device_mesh

        names = ("replicate", "shard")
        return init_device_mesh(device.type, (self.size // shard, shard), mesh_dim_names=names)

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
        """As in `Ranks`; a gradient that only some have is zero on the others.

        Once all have agreed nothing is allocated any more, as a step of which others have the sum
        cannot be repeated.
        """
        trained = list(parameters)
        # A signal in between would leave the others waiting in the sum.
        with uninterrupted():
            with in_stage(UPDATE, 1):
                buffers = _buffers(trained)
            there = self.exchange([parameter.grad is not None for parameter in trained])
            some = [any(each) for each in zip(*there, strict=True)]
            gradients = [p for p, wanted in zip(trained, some, strict=True) if wanted]
            if any(each != some for each in there):
                with in_stage(UPDATE, 1):
                    for parameter in gradients:
                        if parameter.grad is None:
                            parameter.grad = torch.zeros_like(parameter)
                self.exchange(None)
            for bucket in _buckets([p.grad for p in gradients if p.grad is not None]):
                self._sum(bucket, buffers)
            for device in {parameter.device for parameter in gradients}:
                self.settle(device)

    @torch.no_grad()
    def _sum(self, gradients: Sequence[Tensor], buffers: Mapping[Kind, Tensor]) -> None:
        if len(gradients) == 1 and gradients[0].is_contiguous():
            with self._others_needed():
                dist.all_reduce(gradients[0])
            return
        flat = buffers[_kind(gradients[0])][: sum(each.numel() for each in gradients)]
        parts = torch.split(flat, [each.numel() for each in gradients])
        for part, gradient in zip(parts, gradients, strict=True):
            part.view(gradient.shape).copy_(gradient)
        with self._others_needed():
            dist.all_reduce(flat)
        for part, gradient in zip(parts, gradients, strict=True):
            gradient.copy_(part.view(gradient.shape))

    def settle(self, device: torch.device) -> None:
        """As in `Ranks`."""
        if device.type != "cuda":
            return
        # What NCCL does is only queued when its call returns.
        event: Any = torch.cuda.Event
        done = event()
        done.record(torch.cuda.current_stream(device))
        try:
            self.notes.wait_for(done.query)
        except RankEndedError:
            group: Any = dist.group.WORLD
            # Or whatever is saved would wait behind a sum that never ends.
            group.abort()
            raise

    def agree_on(self, error: StageOutOfMemoryError) -> StageOutOfMemoryError:
        """The shortage of the lowest rank that has one, the same for all."""
        if isinstance(error, AgreedShortageError):
            return error
        try:
            # The others meet this in whatever exchange they have come to.
            self.exchange(Shortage(error.stage, error.count, error.cause))
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
            # Not lost: it ends for the sake of another.
            self.notes.write(ENDED)
            raise
        except KeyboardInterrupt as stop:
            _ignore_signals()
            # A block within this one may have found out already.
            if not self._stopped:
                self._stopped = True
                self.notes.write(INTERRUPTED)
                # The signal may be the launcher's, because one has failed or was killed.
                failure = self.notes.failure_within(_SOON)
                if failure is not None:
                    raise failure from stop
            raise
        except BaseException as error:
            _ignore_signals()
            self._stopped = True
            cause = self._behind(error)
            self.notes.write(INTERRUPTED if isinstance(cause, KeyboardInterrupt) else FAILED)
            if cause is not None:
                raise cause from error
            raise

    def failed(self) -> int | None:
        """As in `Ranks`."""
        return self.notes.lowest(FAILED)

    def _behind(self, error: BaseException) -> BaseException | None:
        """The end of another process that made a call of torch's own fail, to gather shards say."""
        if isinstance(error, ComponentError) and error.__cause__ is not None:
            # A network of others whose shards were to be gathered is not to blame.
            error = error.__cause__
        plain = type(error) is RuntimeError or isinstance(error, dist.DistError)
        if not plain or not any(word in str(error) for word in _OF_OTHERS):
            return None
        return self.notes.cause_within(_LATE, error)

    @contextmanager
    def _others_needed(self) -> Iterator[None]:
        try:
            yield
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            cause = self.notes.cause_within(_LATE, error)
            if cause is None:
                raise
            raise cause from error


def _ignore_signals() -> None:
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)


def _kind(tensor: Tensor) -> Kind:
    return tensor.dtype, tensor.device


def _buffers(parameters: Sequence[nn.Parameter]) -> dict[Kind, Tensor]:
    """By kind, room for what is summed in one call, but for large gradients in one piece."""
    sizes: dict[Kind, int] = {}
    largest: dict[Kind, int] = {}
    for parameter in parameters:
        own = parameter if parameter.grad is None else parameter.grad
        kind = _kind(own)
        sizes[kind] = sizes.get(kind, 0) + own.numel()
        if not own.is_contiguous():
            largest[kind] = max(largest.get(kind, 0), own.numel())
    rooms = {kind: max(min(size, _BUCKET), largest.get(kind, 0)) for kind, size in sizes.items()}
    return {kind: torch.empty(n, dtype=kind[0], device=kind[1]) for kind, n in rooms.items()}


def _buckets(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Gradients of one dtype and device, as many as make a bucket; a large one by itself."""
    kinds: dict[Kind, list[Tensor]] = {}
    for gradient in gradients:
        kind = _kind(gradient)
        bucket = kinds.setdefault(kind, [])
        if bucket and sum(each.numel() for each in bucket) + gradient.numel() > _BUCKET:
            yield bucket
            bucket = kinds[kind] = []
        bucket.append(gradient)
    yield from kinds.values()
