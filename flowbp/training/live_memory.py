"""How many bytes live at a time in a piece of work, on tensors that need have no data."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import attrs
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from flowbp.training.device_rules import DeviceRules

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

AGAIN = 0.5
"""The share of what is computed again that is there at a time: assumed, not measured."""


@attrs.define(eq=False)
class _Block:
    """What is allocated at a time, and the share of it that counts."""

    size: int
    number: int
    share: float = 1.0
    alive: bool = True
    gone: Any = None


@attrs.frozen
class _Operation:
    costly: bool
    inputs: Sequence[_Block]
    outputs: Sequence[_Block]


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
        self.log: list[_Operation] | None = None
        self._blocks: dict[int, _Block] = {}
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
            self.log.append(_Operation(func.overloadpacket.__name__ in _COSTLY, read, outputs))
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

    def block_of(self, tensor: Tensor) -> _Block | None:
        """What a tensor lies in, if it is counted."""
        return self._blocks.get(tensor.untyped_storage()._cdata)

    def _block(self, tensor: Tensor) -> _Block | None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        found = self._blocks.get(key)
        if found is not None or key in self._there:
            return found
        self.number += 1
        block = _Block(storage.nbytes(), self.number)
        block.gone = weakref.ref(storage, lambda _: self._free(key, block))
        self._blocks[key] = block
        self._grow(block.size)
        return block

    def _grow(self, size: float) -> None:
        self.now += size
        self.peak = max(self.peak, self.now)

    def _free(self, key: int, block: _Block) -> None:
        block.alive = False
        self._blocks.pop(key, None)
        self.now -= block.size * block.share

    def count_as(self, blocks: Iterable[_Block], share: float) -> None:
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


@attrs.frozen(eq=False)
class CompiledMemory:
    """Has some modules count as they would if they were compiled.

    torch keeps of a compiled module, at the most, what its backward pass reads in matrix products
    and the cheapest set of which the rest can be computed again without one. Of a share of that it
    fills as much as it can with tensors of such a set, and has a module compute the others again.

    Reference: torch's `activation_memory_budget` and its min-cut partitioner.
    """

    live: LiveMemory
    rules: DeviceRules
    shares: Mapping[nn.Module, float]
    _cuts: dict[Hashable, list[list[int]]] = attrs.field(factory=dict, init=False)

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Context in which the modules are called so."""
        modules = list(self.shares)
        for module in modules:
            module.forward = self._counted(module, module.forward)
        try:
            yield
        finally:
            for module in modules:
                del module.__dict__["forward"]

    def _counted(self, module: nn.Module, forward: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            # Compiled code casts weights anew wherever it reads them.
            with self.rules.without_cache():
                return counted(*args, **kwargs)

        def counted(*args: Any, **kwargs: Any) -> Any:
            if not torch.is_grad_enabled():
                return forward(*args, **kwargs)
            live = self.live
            before, begun, live.log = live.peak, live.number, []
            try:
                found = forward(*args, **kwargs)
                log = live.log
            finally:
                live.log = None
            outputs = [each for each in tree_leaves(found) if isinstance(each, Tensor)]
            self._keep(module, log, outputs, begun)
            # Not what was there in between, of which compiled code has little.
            live.peak = max(before, live.now)
            return found

        return call

    def _keep(
        self,
        module: nn.Module,
        log: list[_Operation],
        outputs: Sequence[Tensor],
        begun: int,
    ) -> None:
        returned = {id(self.live.block_of(each)) for each in outputs}
        made = {id(each): each for operation in log for each in operation.outputs}
        inner = [b for b in made.values() if b.number > begun and b.alive and id(b) not in returned]
        total = sum(each.size for each in inner)
        if not total:
            return
        key = type(module), len(log), *(each.size for each in inner)
        if key not in self._cuts:
            self._cuts[key] = [
                least_kept(log, inner, begun, materialised=each) for each in (False, True)
            ]
        least, most = self._cuts[key]
        share, all_kept = self.shares[module], max(sum(most), sum(least))
        found = all_kept if share == 1 else _filled(least, share * all_kept)
        kept, fused = found / total, all_kept / total
        self.live.count_as(inner, kept)

        def recompute(_: Tensor) -> None:
            self.live.count_as(inner, kept + AGAIN * (fused - kept))

        for each in outputs:
            if each.requires_grad:
                each.register_hook(recompute)  # type: ignore[no-untyped-call]


def least_kept(
    log: Sequence[_Operation], wanted: Sequence[_Block], begun: int, *, materialised: bool
) -> list[int]:
    """The sizes of the cheapest set of tensors from which others are had without costly operations.

    What was made before is there for nothing; what is `materialised`, as a costly operation of the
    backward pass reads it, is kept rather than had again. It is the least cut of the graph of
    operations, by Ford and Fulkerson's method.
    """
    capacity: dict[Hashable, dict[Hashable, float]] = {}

    def edge(start: Hashable, end: Hashable, size: float) -> None:
        ends = capacity.setdefault(start, {})
        ends[end] = max(ends.get(end, 0.0), size)
        capacity.setdefault(end, {}).setdefault(start, 0.0)

    unbounded, last = float("inf"), {id(each) for each in wanted}
    for operation in log:
        for out in operation.outputs:
            edge((id(out), "in"), (id(out), "out"), out.size)
            if operation.costly:
                edge("begin", (id(out), "in"), unbounded)
                for read in operation.inputs if materialised else ():
                    if id(read) in last:
                        edge("begin", (id(read), "in"), unbounded)
                continue
            for read in operation.inputs:
                if read.number > begun and read is not out:
                    edge((id(read), "out"), (id(out), "in"), unbounded)
    for each in wanted:
        edge((id(each), "out"), "end", unbounded)
    while "end" in (before := _reached(capacity)):
        path, there = list[tuple[Hashable, Hashable]](), cast(Hashable, "end")
        while there != "begin":
            path.append((before[there], there))
            there = before[there]
        flow = min(capacity[start][end] for start, end in path)
        for start, end in path:
            capacity[start][end] -= flow
            capacity[end][start] += flow
    made = {id(each): each for operation in log for each in operation.outputs}
    return [b.size for n, b in made.items() if (n, "in") in before and (n, "out") not in before]


def _reached(capacity: Mapping[Hashable, Mapping[Hashable, float]]) -> dict[Hashable, Hashable]:
    """Where something can flow to from `begin`, each with where from; no further than `end`."""
    before: dict[Hashable, Hashable] = {"begin": None}
    queue = deque[Hashable](["begin"])
    while queue and "end" not in before:
        here = queue.popleft()
        for there, left in capacity.get(here, {}).items():
            if left > 0 and there not in before:
                before[there] = here
                queue.append(there)
    return before


_PARTS = 1000


def _filled(sizes: Sequence[int], room: float) -> float:
    """The most of some sizes together for which there is room, to a thousandth of all."""
    if sum(sizes) <= room:
        return sum(sizes)
    unit = max(sum(sizes) / _PARTS, 1)
    sums: dict[int, int] = {0: 0}
    for size in sizes:
        more = {round((each + size) / unit): each + size for each in sums.values()}
        sums = more | sums
    return max(each for each in sums.values() if each <= room)
