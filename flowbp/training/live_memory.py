"""How many bytes live at a time in a piece of work, on tensors that need have no data."""

from __future__ import annotations

import weakref
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

# Everything else is computed again by a compiler that is short of memory.
_COSTLY = {
    "mm",
    "addmm",
    "bmm",
    "baddbmm",
    "mv",
    "addmv",
    "dot",
    "convolution",
    "native_dropout",
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_flash_attention_for_cpu",
}


@attrs.define(eq=False)
class Block:
    """What is allocated at a time, and the share of it that counts."""

    size: int
    number: int
    share: float = 1.0
    alive: bool = True
    gone: Any = None


@attrs.frozen
class Operation:
    """One call: whether computing it again is dear, and what it read and made."""

    costly: bool
    inputs: Sequence[Block]
    outputs: Sequence[Block]


class LiveMemory(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all tensors that are made within it, from when until they are freed.

    `peak` is the most at a time. What kernels allocate for themselves is not seen.

    Args:
        there: tensors that are there already, and are not counted.
    """

    def __init__(self, there: Iterable[Tensor] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0.0
        self.number = 0
        self.log: list[Operation] | None = None
        self._blocks: dict[int, Block] = {}
        self._known: dict[Hashable, list[Any]] = {}
        # Kept, as the place of one that is freed may be another's.
        self._there = {s._cdata: s for s in (each.untyped_storage() for each in there)}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        found = self._results(func, args, kwargs or {})
        outputs = [each for t in _tensors(found) if (each := self._block(t)) is not None]
        if self.log is not None and outputs:
            given = (*_tensors(args), *_tensors((kwargs or {}).values()))
            read = [each for t in given if (each := self.block_of(t)) is not None]
            self.log.append(Operation(func.overloadpacket.__name__ in _COSTLY, read, outputs))
        return found

    def _results(self, func: Any, args: Any, kwargs: Mapping[str, Any]) -> Any:
        """What a function returns; of tensors without data, empty ones like those of another call.

        torch takes a hundred times as long to find their shapes as to make them.
        """
        key = _call(func, args, kwargs)
        if key is None:
            return func(*args, **kwargs)
        known = self._known.get(key)
        if known is not None:
            made = [torch.empty_strided(s, t, dtype=d, device="meta") for s, t, d in known]
            return made[0] if len(made) == 1 else tuple(made)
        found = func(*args, **kwargs)
        several = found if isinstance(found, tuple) else (found,)
        if all(isinstance(each, Tensor) and each.is_meta for each in several):
            like = [(tuple(t.shape), t.stride(), t.dtype) for t in several]
            self._known[key] = like
        return found

    def block_of(self, tensor: Tensor) -> Block | None:
        """What a tensor lies in, if it is counted."""
        return self._blocks.get(tensor.untyped_storage()._cdata)

    def _block(self, tensor: Tensor) -> Block | None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        found = self._blocks.get(key)
        if found is not None or key in self._there:
            return found
        self.number += 1
        block = Block(storage.nbytes(), self.number)
        block.gone = weakref.ref(storage, lambda _: self._free(key, block))
        self._blocks[key] = block
        self._grow(block.size)
        return block

    def _grow(self, size: float) -> None:
        self.now += size
        self.peak = max(self.peak, self.now)

    def _free(self, key: int, block: Block) -> None:
        block.alive = False
        self._blocks.pop(key, None)
        self.now -= block.size * block.share

    def count_as(self, blocks: Iterable[Block], share: float) -> None:
        """Count a share of some blocks from now on."""
        for each in blocks:
            if each.alive:
                self._grow((share - each.share) * each.size)
                each.share = share


def _call(func: Any, args: Any, kwargs: Mapping[str, Any]) -> Hashable | None:
    """What decides the shapes of a call's new tensors; None where it makes none, or of data."""
    if any(each.alias_info for each in (*func._schema.arguments, *func._schema.returns)):
        return None
    metas = list[bool]()

    def part(value: Any) -> Hashable:
        if isinstance(value, Tensor):
            metas.append(value.is_meta)
            return value.shape, value.stride(), value.dtype
        if isinstance(value, list | tuple):
            return tuple(map(part, value))
        # True and 1 are equal, but not the same to torch.
        return type(value), value

    key = func, part(args), tuple((name, part(kwargs[name])) for name in kwargs)
    return key if metas and all(metas) else None


def _tensors(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, Iterable) and not isinstance(values, str):
        for each in values:
            yield from _tensors(each)
