"""Files read before they are asked for and written while the next are made, in threads."""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import attrs

READERS = 2
"""Threads that read. Pillow decodes one picture at a time, however many threads there are; what is
gained is that it does so while the device is at work."""

# Encoding does not hold up Python, and is a core's work for each picture.
_WRITERS = min(8, os.cpu_count() or 1)

T = TypeVar("T")


@attrs.frozen(eq=False)
class ReadAhead(Sequence[T], Generic[T]):
    """A sequence that is computed item by item; those after the last one asked for are begun.

    Args:
        length: how many items there are.
        read: computes one, by its number, in any thread.
        pool: that does it.
        window: items that are begun and not yet asked for.

    Example:
        >>> with ThreadPoolExecutor() as pool:
        ...     print([*ReadAhead(3, lambda number: number**2, pool, window=2)])
        [0, 1, 4]
    """

    length: int
    read: Callable[[int], T]
    pool: ThreadPoolExecutor
    window: int
    _begun: dict[int, Future[T]] = attrs.field(factory=dict, init=False, repr=False)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, number: Any) -> Any:
        """An item, or the items of a slice; whatever computing them raises is raised here."""
        if isinstance(number, slice):
            return [self[each] for each in range(*number.indices(self.length))]
        place = operator.index(number)
        if not -self.length <= place < self.length:
            raise IndexError(
                f"`number` must be in [{-self.length}, {self.length - 1}], got {number}"
            )
        return self._item(place % self.length)

    def _item(self, number: int) -> T:
        wanted = range(number, min(number + self.window + 1, self.length))
        for other in [each for each in self._begun if each not in wanted]:
            self._begun.pop(other).cancel()
        for each in wanted:
            if each not in self._begun:
                self._begun[each] = self.pool.submit(self.read, each)
        return self._begun.pop(number).result()


@contextmanager
def written_behind(
    write: Callable[..., object],
) -> Iterator[Callable[[Iterable[tuple[Any, ...]]], None]]:
    """Write some files in threads while the next are made; at the end of the block all are there.

    Args:
        write: writes one.

    Yields:
        What takes the arguments of `write` for each of some files. It waits until the files that
        it was given before are written, so that no more than two lots are in memory.

    Raises:
        Exception: what `write` raises.

    Example:
        >>> done = []
        >>> with written_behind(done.append) as write:
        ...     write([(1,), (2,)])
        >>> sorted(done)
        [1, 2]
    """
    pending: list[Future[object]] = []

    def begin(files: Iterable[tuple[Any, ...]]) -> None:
        while pending:
            pending.pop(0).result()
        pending.extend(pool.submit(write, *each) for each in files)

    with ThreadPoolExecutor(_WRITERS) as pool:
        yield begin
        begin([])
