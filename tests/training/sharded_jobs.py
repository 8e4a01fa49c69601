"""What several processes do in the tests of sharded models, by name."""

from __future__ import annotations

import gc
import importlib
import warnings
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from flowbp.adapters.compilation import compile_blocks
from flowbp.adapters.sharding import gathered, shard, whole
from flowbp.core import SampleClip, functional_pull
from flowbp.training import (
    Anchor,
    Batching,
    OptimizerClass,
    Ranks,
    Snapshots,
)
from flowbp.training.metrics import metrics_row

from . import distributed_jobs
from .cases import GUIDANCE, METHODS
from .distributed_jobs import LONG, TEXTS, step_of_eight, trained
from .fakes import FakeBackbone, Network, make_step, make_trainer
from .short import GIB, Listener, ShortBackbone, ToyMemory


class BlockNetwork(Network):
    """A network with three blocks, of sizes that no number of processes divides."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        source = torch.Generator().manual_seed(seed + 1)
        self.blocks = nn.ModuleList(nn.Linear(8, 8, dtype=torch.float64) for _ in range(3))
        for parameter in self.blocks.parameters():
            parameter.data = torch.randn(
                parameter.shape, generator=source, dtype=torch.float64
            ).mul_(0.3)
        self.blocks.append(_Scale())

    def forward(self, latents: Tensor, code: Tensor, sigma: Tensor) -> Tensor:
        hidden = latents.flatten(1) @ self.inner.T + code @ self.prompt.T + sigma * self.bias
        for block in self.blocks:
            hidden = hidden + torch.tanh(block(hidden))
        # Not a view, which torch warns of.
        return (torch.tanh(hidden) @ self.outer.T).reshape(latents.shape).clone()


class WideNetwork(BlockNetwork):
    """With two matrices besides, of which two processes have 4096 numbers, and 4096 and 4088.

    From 4096 on the moments of an 8-bit optimizer are quantised.
    """

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        source = torch.Generator().manual_seed(seed + 2)
        for rows in (1024, 1023):
            wide = nn.Linear(8, rows, dtype=torch.float64)
            for each in wide.parameters():
                each.data = torch.randn(each.shape, generator=source, dtype=torch.float64) * 0.3
            self.blocks.insert(0, _Folded(wide))
        # Quantised moments stand for float32 at most.
        self.float()

    def forward(self, latents: Tensor, code: Tensor, sigma: Tensor) -> Tensor:
        return super().forward(latents.float(), code.float(), sigma.float()).double()


class _Folded(nn.Module):
    """A matrix to many rows, whose outputs are summed to eight."""

    def __init__(self, wide: nn.Linear) -> None:
        super().__init__()
        self.wide = wide

    def forward(self, hidden: Tensor) -> Tensor:
        found = torch.tanh(self.wide(hidden))
        return found[:, : found.shape[1] // 8 * 8].unflatten(1, (8, -1)).mean(2)


class _Scale(nn.Module):
    """Five numbers and one, of which some processes have none."""

    def __init__(self) -> None:
        super().__init__()
        self.five = nn.Parameter(torch.linspace(0.1, 0.5, 5, dtype=torch.float64))
        self.one = nn.Parameter(torch.full((1,), 0.7, dtype=torch.float64))

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden * self.five.sum() * self.one


UNITS = 5
"""The blocks, and what is left."""


def backbone_of(kind: type[FakeBackbone] = FakeBackbone, **named: Any) -> FakeBackbone:
    made = kind(**named)
    made.module = BlockNetwork()
    return made


def divided(ranks: Ranks, backbone: FakeBackbone, size: int | None, keep: bool = True) -> None:
    """Shard a backbone among so many processes; None leaves it whole on each."""
    if size is not None and ranks.size > 1:
        shard(backbone.module, ranks.mesh(size, backbone.device), keep=keep)


def wholes(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: whole(each.detach()).clone() for name, each in parameters.items()}


def parts_of(method: str, backbone: FakeBackbone, anchor: float | None) -> dict[str, Any]:
    return {
        "backbone": backbone,
        "method": METHODS[method],
        "sampling": GUIDANCE["attached"],
        "batching": Batching(1, global_=8, pull=1),
        "anchor": None if anchor is None else Anchor(anchor, backbone.reference()),
        "sample_clip": SampleClip(0.8),
    }


def train(
    ranks: Ranks,
    method: str,
    size: int | None = None,
    *,
    keep: bool = True,
    compiled: bool = False,
    anchor: float | None = 0.1,
    steps: int = 3,
    folder: str | None = None,
    resume: str | None = None,
    every: int | None = None,
    optimizer: str | None = None,
) -> Any:
    """Train, and return metrics, whole parameters and the pictures that were shown.

    With an `optimizer`, a dotted path, the network is wide and nothing else averages it.
    """
    backbone, changes = backbone_of(), dict[str, Any]()
    if optimizer is not None:
        backbone.module = WideNetwork()
        module, _, name = optimizer.partition(":")
        recipe = OptimizerClass(getattr(importlib.import_module(module), name), {"lr": 1e-2})
        changes = {"optimizer": recipe, "averaging": None}
    if compiled:
        compile_blocks(backbone.module, backend="eager")
    parts = parts_of(method, backbone, anchor)
    divided(ranks, backbone, size, keep)
    places = {"folder": folder, "every": every, "resume": resume}
    made = make_step(**parts, ranks=ranks)
    changes = {**LONG, **changes, "snapshots": Snapshots(TEXTS, 2)}
    _, recorder = trained(made, **places, steps=steps, **changes)
    rows = [metrics_row(row) for row in recorder.rows]
    return rows, wholes(backbone.trainable()), {s: images for s, images, _ in recorder.shown}


class Counted(TorchDispatchMode):
    """Counts what goes to other processes, by the name of the operation."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: dict[str, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace in ("c10d", "_c10d_functional"):
            name = func._schema.name.split("::")[1]
            self.counts[name] = self.counts.get(name, 0) + 1
        return func(*args, **(kwargs or {}))


def collectives(ranks: Ranks, method: str, pull: int) -> dict[str, int]:
    """How often a step goes to the others for parameters and gradients."""
    backbone = backbone_of()
    divided(ranks, backbone, ranks.size)
    parts = {**parts_of(method, backbone, None), "batching": Batching(4, pull=pull)}
    trainer = make_trainer(make_step(**parts, ranks=ranks), steps=2, clip=None)
    with Counted() as mode:
        trainer.run()
    return mode.counts


def hooks_within(ranks: Ranks, keep: bool) -> tuple[bool, list[list[int]]]:
    """Whether a sharded model is freed; the hooks it has before, within and after `gathered`."""
    network, called, hooks = BlockNetwork(), list[None](), list[list[int]]()
    network.blocks[0].register_forward_pre_hook(lambda *_: called.append(None))
    network.blocks[0].register_forward_hook(lambda *_: called.append(None))
    shard(network, ranks.mesh(ranks.size, torch.device("cpu")), keep=keep)

    def note(units: Sequence[nn.Module]) -> None:
        hooks.append([key for u in units for key in (*u._forward_pre_hooks, *u._forward_hooks)])

    latents, code = torch.ones(2, 32, dtype=torch.float64), torch.ones(2, 3, dtype=torch.float64)
    note([*network.blocks, network])
    with gathered(network):
        note([*network.blocks, network])
        network(latents, code[:, : network.prompt.shape[1]], code[0, 0])
    note([*network.blocks, network])
    gone = weakref.ref(network)
    del network
    gc.collect()
    return len(called) == 2 and gone() is None, hooks


def short(ranks: Ranks, limits: Mapping[str, Mapping[str, int]]) -> Any:
    """Train a sharded model where some ranks have less memory."""
    backbone = backbone_of(ShortBackbone, **limits.get(str(ranks.rank), {}))
    divided(ranks, backbone, ranks.size)
    trained(step_of_eight(ranks, backbone))
    return wholes(backbone.trainable()), backbone.failed, backbone.most


def portions(
    ranks: Ranks,
    checkpointing: object,
    sizes: Mapping[str, int],
    rooms: Sequence[int] | None = None,
    compiled: bool = False,
) -> Any:
    """Train a model that is gathered block by block; what is told of portions, and what is used."""
    backbone = backbone_of(ShortBackbone, checkpointing=checkpointing)
    if compiled:
        compile_blocks(backbone.module, backend="eager")
    divided(ranks, backbone, ranks.size, keep=False)
    batching = Batching(8 if rooms else 4, **sizes)
    memory = None if rooms is None else ToyMemory(backbone, rooms[ranks.rank] * GIB)
    made = make_step(backbone=backbone, method=METHODS["Bridge"], batching=batching, ranks=ranks)
    listener = Listener()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="step")
        make_trainer(made, steps=1, observers=[listener], memory=lambda device: memory).run()
    told = [(step, str(portions), text) for step, portions, text in listener.told]
    return told, backbone.most, backbone.on, backbone.calls


def short_of_room(ranks: Ranks, rooms: Sequence[int] | None) -> Any:
    """Train a model that is gathered block by block in portions that fit, or in the same typed."""
    backbone, listener = backbone_of(ShortBackbone, dropout=0.2), Listener()
    divided(ranks, backbone, ranks.size, keep=False)
    batching = Batching(8) if rooms else Batching(8, pull=4, decode=2)
    memory = None if rooms is None else ToyMemory(backbone, rooms[ranks.rank] * GIB)
    made = make_step(backbone=backbone, method=METHODS["Bridge"], batching=batching, ranks=ranks)
    make_trainer(made, steps=2, observers=[listener], memory=lambda device: memory).run()
    return wholes(backbone.trainable()), listener.told


class Inside(nn.Module):
    """A block that runs out of memory, within a network's forward or backward pass."""

    def __init__(self, where: str, most: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(8, dtype=torch.float64))
        self.where, self.most, self.failed = where, most, 0

    def fail(self, count: int) -> None:
        if count > self.most:
            self.failed += 1
            raise torch.OutOfMemoryError("CUDA out of memory")

    def forward(self, hidden: Tensor) -> Tensor:
        if self.where == ("pull" if torch.is_grad_enabled() else "sample"):
            self.fail(len(hidden))
        found = hidden * self.scale
        if self.where == "backward" and found.requires_grad:
            found.register_hook(lambda gradient: self.fail(len(gradient)))
        return found


def short_inside(ranks: Ranks, where: str, short: int, steps: int = 3) -> Any:
    """Train a sharded model of which one process runs out of memory inside its network."""
    backbone = backbone_of()
    block = Inside(where, 2 if ranks.rank == short else 99)
    backbone.module.blocks.insert(1, block)
    divided(ranks, backbone, ranks.size)
    parts = parts_of("Bridge", backbone, None) | {"batching": Batching(8 // ranks.size)}
    trained(make_step(**parts, ranks=ranks), steps=steps)
    return wholes(backbone.trainable()), block.failed


def ending(ranks: Ranks, folder: str, acts: Mapping[str, Sequence[Any]], keep: bool = True) -> None:
    """Train a sharded model until something ends it."""
    backbone = backbone_of()
    divided(ranks, backbone, ranks.size, keep)
    distributed_jobs.ending(ranks, folder, acts, backbone, every=1)


def functional(ranks: Ranks) -> str:
    """What `functional_pull` says of a sharded model."""
    backbone = backbone_of()
    divided(ranks, backbone, ranks.size)
    try:
        functional_pull(lambda params, x, sigma: x, backbone.trainable())
    except TypeError as error:
        return str(error)
    return ""
