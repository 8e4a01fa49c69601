"""What a compiled module keeps for its backward pass, found from what it does without weights."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import attrs
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from flowbp.training.device_rules import DeviceRules
from flowbp.training.live_memory import Block, LiveMemory, Operation

AGAIN = 0.5
"""The share of what is computed again that is there at a time: assumed, not measured."""


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
        log: list[Operation],
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
    log: Sequence[Operation], wanted: Sequence[Block], begun: int, *, materialised: bool
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
