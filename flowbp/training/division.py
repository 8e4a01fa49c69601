"""What training keeps on each device besides activations, and how a model is divided to fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import attrs
import torch
from torch import nn

from flowbp.adapters.compilation import blocks_of
from flowbp.adapters.lora_layers import only_adapters_train
from flowbp.training.batching import AUTO
from flowbp.training.ema import Averaging
from flowbp.training.launch import Launch
from flowbp.training.optimization import OptimizerRecipe, state_bytes

GIB = 2**30
ROOM = 0.7
"""The share of a device's memory that a model in training may take under `auto`; the rest is for
activations, the decoder and the reward."""

Sharding = int | Literal["auto"]


@attrs.frozen(kw_only=True)
class Needs:
    """Bytes of a whole model in training.

    `largest` are the weights of its largest block, `reference` is the frozen copy that an anchor
    compares with, which is never divided. `saved` is what a checkpoint has of the model to use.
    """

    weights: int
    gradients: int
    optimizer: int
    average: int
    largest: int
    reference: int = 0
    saved: int = 0

    @property
    def copy(self) -> int:
        """Bytes of the host that a checkpoint is copied to, to be written beside training."""
        # The gradients are as large as the parameters.
        return self.gradients + self.optimizer + self.average + self.saved

    @classmethod
    def of(
        cls,
        network: nn.Module,
        trained: Mapping[str, nn.Parameter],
        optimizer: OptimizerRecipe,
        averaging: Averaging | None,
    ) -> Needs:
        """What a network needs, which may be without weights yet."""
        own = list(trained.values())
        units = [*blocks_of(network), network]
        in_blocks = sum(_size(block) for block in units[:-1])
        sizes = [*(_size(block) for block in units[:-1]), _size(network) - in_blocks]
        # An average is of float32 at least.
        wide = (p.numel() * max(p.element_size(), 4) for p in own) if averaging else ()
        return cls(
            weights=_size(network),
            gradients=sum(map(_bytes, own)),
            optimizer=state_bytes(optimizer, (torch.empty_like(p, device="meta") for p in own)),
            average=sum(wide),
            largest=max(sizes),
            saved=sum(map(_bytes, own)) if only_adapters_train(network) else _size(network),
        )


def written_bytes(size: int) -> str:
    """A size as one reads it."""
    return f"{size / GIB:.1f} GiB" if size >= GIB / 2 else f"{size / 2**20:.1f} MiB"


def _size(module: nn.Module) -> int:
    return sum(map(_bytes, module.parameters()))


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


@attrs.frozen
class Division:
    """How many processes share a copy of the model, and whether it is kept over a step.

    One that is kept is gathered once a step; another unit by unit, whenever it is called.
    """

    shard: int = 1
    keep: bool = True

    def bytes_of(self, needs: Needs) -> Mapping[str, int]:
        """What each device has, by what it is."""
        whole = {"the anchor's reference": needs.reference}
        if self.shard == 1:
            return {
                "weights": needs.weights,
                "gradients": needs.gradients,
                "optimizer state": needs.optimizer,
                "averages": needs.average,
                **whole,
            }
        shares = needs.weights + needs.optimizer + needs.average
        if self.keep:
            within = {"a step's weights": needs.weights, "a step's gradients": needs.gradients}
        else:
            shares += needs.gradients
            # One that is used, and the next one.
            within = {"blocks in use": 3 * needs.largest}
        return {"shards": shares // self.shard, **within, **whole}

    def total(self, needs: Needs) -> int:
        """What each device has in all."""
        return sum(self.bytes_of(needs).values())

    def described(self, needs: Needs, processes: int) -> str:
        """What each device has, in words."""
        sizes = self.bytes_of(needs).items()
        parts = ", ".join(f"{written_bytes(size)} of {name}" for name, size in sizes if size)
        each = "" if processes == 1 else "on each process "
        return f"{each}{parts}; besides activations, the decoder and the reward"

    def shared(self, processes: int) -> str:
        """Who has the model, in words."""
        if self.shard == 1:
            return "each with the whole model"
        how = "gathered once a step" if self.keep else "gathered block by block"
        copies = processes // self.shard
        if copies == 1:
            return f"which share one model, {how}"
        return f"each {self.shard} of which share one of {copies} models, {how}"


def chosen_division(wish: Sharding, needs: Needs, launch: Launch, memory: int | None) -> Division:
    """How a model is divided: as it is wished, or under `auto` as little as fits.

    Args:
        wish: the number of processes that share a copy, or `auto`.
        needs: of the model.
        launch: how many processes there are, on all machines and on each.
        memory: bytes of a device; None, where it is not known, divides nothing by itself.
    """
    size, local = launch.size, launch.local_size
    room = None if memory is None else ROOM * memory

    def fits(each: Division) -> bool:
        return room is None or each.total(needs) <= room

    if wish != AUTO:
        kept = Division(wish)
        return kept if wish == 1 or fits(kept) else Division(wish, keep=False)
    # Within a machine first, where gathering is fast.
    groups = dict.fromkeys(n for n in (1, local, size) if size % n == 0)
    choices = [Division(n) for n in groups] + [Division(n, keep=False) for n in groups if n > 1]
    return next((each for each in choices if fits(each)), choices[-1])
