"""What the processes of a sharded model do together when the first one saves or looks at it.

The first asks, see `ask`, and the others wait for what it asks, see `serve`.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Protocol

import attrs
import torch
from torch import Tensor, nn

from flowbp.adapters.lora_layers import only_adapters_train
from flowbp.adapters.sharding import (
    Sharding,
    empty_part,
    gather_state,
    is_sharded,
    own_part,
    part_of,
    sharding_of,
)
from flowbp.extras import require
from flowbp.training.packing import is_composite, pack, unpack
from flowbp.training.run_state import RunState

SHARDS = "shards"
"""The folder with the tensors of which each process writes its shards."""


class StoppedTogether(KeyboardInterrupt):
    """An interrupt that all processes have come to at the same point."""


class Request(Protocol):
    """Something that all processes do, each on its own shards."""

    def __call__(self, run: RunState, /) -> Any:
        """Do it; what the first returns is the answer."""
        ...


def network_of(run: RunState) -> nn.Module | None:
    """The network of a run if it is sharded."""
    network = getattr(run.step.backbone, "module", None)
    return None if sharding_of(network) is None else network


def shard_number(run: RunState) -> int:
    """Which shard of a model this process has; 0 of one that is whole."""
    found = sharding_of(network_of(run))
    return 0 if found is None else int(found.mesh.get_local_rank("shard"))


def ask(run: RunState, request: Request) -> Any:
    """On the first process: have all do something."""
    run.step.ranks.exchange(request)
    return request(run)


def serve(run: RunState) -> None:
    """On the others: do what the first asks for, until it has nothing more."""
    while (request := run.step.ranks.exchange(None)[0]) is not None:
        request(run)


@attrs.frozen
class GatherModel:
    """Gather the model's state on the CPU of the first; of a model with an adapter that alone."""

    averaged: bool

    def __call__(self, run: RunState, /) -> Mapping[str, Tensor]:
        """The state by name; empty on the others."""
        network = network_of(run)
        assert network is not None
        frozen = not only_adapters_train(network)
        with run.averaged() if self.averaged else nullcontext():
            return gather_state(network, frozen=frozen, keep=run.step.ranks.first)


@attrs.frozen
class FindNonFinite:
    """Find what is not finite, on any process."""

    gradients: bool = False

    def __call__(self, run: RunState, /) -> list[str]:
        """The names of parameters or gradients."""
        tensors = {n: p.grad if self.gradients else p for n, p in run.parameters.items()}
        own = [n for n, t in tensors.items() if t is not None and not _finite(own_part(t))]
        broken = {name for names in run.step.ranks.exchange(own) for name in names}
        return [name for name in run.parameters if name in broken]


@attrs.frozen
class WriteShards:
    """Write the shards of a training state into a folder that all processes see."""

    folder: str

    def __call__(self, run: RunState, /) -> None:
        """Write those of this process."""
        from flowbp.training.training_state import packed_state

        tensors: dict[str, Tensor] = {}
        packed_state(run, tensors)
        divided = {name: tensor for name, tensor in tensors.items() if is_sharded(tensor)}
        mine = [name for name, tensor in divided.items() if is_composite(own_part(tensor))]
        # One process may have too few elements of a tensor to quantise them, and another enough.
        composite = {name for names in run.step.ranks.exchange(mine) for name in names}
        if composite:
            _write_own(run, Path(self.folder), {n: divided.pop(n) for n in sorted(composite)})
        writer = _torch().FileSystemWriter(self.folder)
        _torch().save(divided, storage_writer=writer, process_group=run.step.ranks.control)


def read_shards(folder: Path, sharding: Sharding | None) -> dict[str, Tensor]:
    """The tensors of a folder: as a sharded model has them, or whole for one that is not."""
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

    own = _read_own(folder, sharding)
    reader = _torch().FileSystemReader(folder)
    state: dict[str, Any] = {}
    for name, entry in reader.read_metadata().state_dict_metadata.items():
        if not isinstance(entry, TensorStorageMetadata):
            raise ValueError(f"{folder} holds `{name}`, which is no tensor")
        kind = entry.properties.dtype
        if sharding is None:
            state[name] = torch.zeros(entry.size, dtype=kind)
        else:
            state[name] = empty_part(sharding, entry.size, kind)
    with warnings.catch_warnings():
        # That it is loaded by one process is what is wanted.
        warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
        _torch().load(state, storage_reader=reader, no_dist=True)
    return state | own


_OWN = "own-{}.safetensors"


@attrs.frozen
class OfShards:
    """In place of a tensor whose parts cannot be put together, of so many processes."""

    shards: int


def _write_own(run: RunState, folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a process's own parts of tensors, which are composite and so cannot be divided anew."""
    sharding = sharding_of(network_of(run))
    assert sharding is not None
    if sharding.mesh.get_local_rank("replicate") != 0:
        return
    parts: dict[str, Tensor] = {}
    facts = {
        name: {
            "part": pack(own_part(tensor), name, parts),
            "shape": list(tensor.shape),
            "stride": list(tensor.stride()),
        }
        for name, tensor in tensors.items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / _OWN.format(shard_number(run))
    told = {"shards": str(sharding.mesh.size(1)), "facts": json.dumps(facts)}
    require("safetensors.torch").save_file(parts, path, metadata=told)


def _read_own(folder: Path, sharding: Sharding | None) -> dict[str, Any]:
    """What `_write_own` wrote for this process."""
    number = 0 if sharding is None else int(sharding.mesh.get_local_rank("shard"))
    path = folder / _OWN.format(number)
    if not path.exists():
        path = folder / _OWN.format(0)
    if not path.exists():
        return {}
    with require("safetensors").safe_open(path, "pt") as file:
        told = file.metadata()
        parts = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
    facts, shards = json.loads(told["facts"]), int(told["shards"])
    if sharding is None or sharding.mesh.size(1) != shards:
        return dict.fromkeys(facts, OfShards(shards))
    return {
        name: part_of(sharding, unpack(fact["part"], parts), fact["shape"], fact["stride"])
        for name, fact in facts.items()
    }


def _torch() -> Any:
    # Late, because it takes a while to import; untyped, because it exports nothing explicitly.
    from torch.distributed import checkpoint

    return checkpoint


def _finite(value: Tensor) -> bool:
    return bool(torch.isfinite(value).all())
