"""A network divided among processes: each keeps a shard of every parameter, between two uses."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import attrs
import torch
import torch.distributed as dist
from torch import Tensor, nn

from flowbp.adapters.compilation import blocks_of


@attrs.frozen(eq=False)
class Sharding:
    """How a network is divided.

    Args:
        mesh: of all processes, `replicate` by `shard`: those of a row have a copy together.
        keep: gather the parameters once, where a block `gathered` is entered, and sum gradients
            once, where it is left; otherwise each unit is gathered whenever it is called, and its
            gradients are summed in each backward pass.
        units: the modules that are gathered by themselves, with the names of their parameters.
        kind: the class of the network before it was divided.
        parameters: of the network by name; each is a `DTensor`.
        hooks: those of `fully_shard`, each by the dictionary that has it and its key there.
        cpu: the mesh again, of CPUs, for what is read from a disk.
    """

    mesh: Any
    keep: bool
    units: Sequence[tuple[nn.Module, Sequence[str]]]
    kind: type[nn.Module]
    parameters: Mapping[str, nn.Parameter]
    hooks: Sequence[tuple[OrderedDict[int, Any], int]]
    cpu: Any


_SHARDING = "_flowbp_sharding"
"""The attribute of a network that says how it is divided. No weak dictionary: the value refers to
the network, which would then never be freed."""
_GATHERED = WeakKeyDictionary[nn.Module, bool]()


def sharding_of(network: object) -> Sharding | None:
    """How a network is divided; None of one that is whole."""
    return vars(network).get(_SHARDING) if isinstance(network, nn.Module) else None


def is_sharded(tensor: object) -> bool:
    """Whether a tensor is a part of one that several processes share."""
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def shard(network: nn.Module, mesh: Any, *, keep: bool = True) -> None:
    """Divide a network by torch's `fully_shard`: each of its blocks, and what is left of it.

    After it was placed, and after adapters, checkpointing and compilation. All processes hold the
    same weights and call it together; they hold a shard each from then on.

    Args:
        network: whose class gets hooks, as `fully_shard` says.
        mesh: a `DeviceMesh` with the dimensions `replicate` and `shard`.
        keep: see `Sharding`.

    Raises:
        RuntimeError: this version of torch cannot.
    """
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.fsdp import FSDPModule, fully_shard

    if not hasattr(FSDPModule, "set_force_sum_reduction_for_comms"):
        raise RuntimeError(
            f"sharding needs torch 2.9 or later, got {torch.__version__}; write distributed.shard=1"
        )
    kind, blocks = type(network), blocks_of(network)
    known = {key for _, key in _hooks_of((*blocks, network))}
    used = mesh if mesh.size(0) > 1 else mesh["shard"]
    for unit in (*blocks, network):
        divided = fully_shard(unit, mesh=used, reshard_after_forward=not keep)
        if keep:
            divided.set_reshard_after_forward(False, recurse=False)
            divided.set_reshard_after_backward(False, recurse=False)
            divided.set_requires_gradient_sync(False, recurse=False)
        else:
            # The loss is divided by the whole batch.
            divided.set_gradient_divide_factor(1.0)
            divided.set_force_sum_reduction_for_comms(True)
    parameters = dict(network.named_parameters())
    names = {module: name for name, module in network.named_modules()}
    prefixes = sorted((f"{names[unit]}." for unit in blocks), key=len, reverse=True)
    owner = {n: next((p for p in prefixes if n.startswith(p)), "") for n in parameters}
    units = [
        (unit, [n for n in parameters if owner[n] == (f"{names[unit]}." if names[unit] else "")])
        for unit in (*blocks, network)
    ]
    units = [each for each in units if each[1]]
    cpu = mesh
    if mesh.device_type != "cpu":
        cpu = DeviceMesh("cpu", mesh.mesh, mesh_dim_names=mesh.mesh_dim_names)
    added = [(kept, key) for kept, key in _hooks_of((*blocks, network)) if key not in known]
    vars(network)[_SHARDING] = Sharding(mesh, keep, units, kind, parameters, added, cpu)


@contextmanager
def gathered(network: object) -> Iterator[None]:
    """Hold the whole of a divided network that is kept so; nothing happens to any other.

    Each unit is gathered once, however often it is called within, and the hooks by which
    `fully_shard` would gather it rest. Gradients that are not summed by `sum_gradients` when the
    block ends are lost.
    """
    found = sharding_of(network)
    if found is None or not found.keep or not isinstance(network, nn.Module):
        yield
        return
    if _GATHERED.get(network):
        yield
        return
    _GATHERED[network] = True
    try:
        for unit, _ in found.units:
            _hooks(unit).unshard()
        with _resting(found.hooks):
            yield
    finally:
        for parameter in network.parameters():
            if not is_sharded(parameter):
                # Or it would have it again when it is gathered again.
                parameter.grad = None
        for unit, _ in found.units:
            # A unit that an error has left within its forward pass is kept otherwise.
            _hooks(unit).set_reshard_after_forward(True, recurse=False)
            _hooks(unit).reshard()
            _hooks(unit).set_reshard_after_forward(False, recurse=False)
        _GATHERED[network] = False


def _hooks_of(units: Sequence[nn.Module]) -> list[tuple[OrderedDict[int, Any], int]]:
    """What is called before and after the calls of some modules, by its place."""
    kinds: list[Any] = [
        kind for unit in units for kind in (unit._forward_pre_hooks, unit._forward_hooks)
    ]
    return [(kind, key) for kind in kinds for key in kind]


@contextmanager
def _resting(hooks: Sequence[tuple[OrderedDict[int, Any], int]]) -> Iterator[None]:
    """Call modules without some of their hooks.

    Those of `fully_shard` take longer on the host than a GPU takes for the blocks of some models,
    and compiled code is interrupted for them.
    """
    orders = {id(kind): (kind, list(kind)) for kind, _ in hooks}
    out = [(kind, key, kind.pop(key)) for kind, key in hooks]
    try:
        yield
    finally:
        for kind, key, hook in out:
            kind[key] = hook
        for kind, order in orders.values():
            # As they were, before any that were added within.
            for key in reversed(order):
                if key in kind:
                    kind.move_to_end(key, last=False)


def _hooks(unit: nn.Module) -> Any:
    """A unit as what `fully_shard` made of it."""
    return unit


def with_gradient(network: nn.Module) -> list[str]:
    """The names of the parameters that have a gradient, within `gathered` too."""
    return [name for name, each in network.named_parameters() if each.grad is not None]


@torch.no_grad()
def sum_gradients(network: nn.Module, names: Sequence[str]) -> None:
    """Sum the gradients of a network that is gathered, and leave each process those of its shards.

    One `reduce_scatter` for each unit, and one `all_reduce` where there are several copies.

    Args:
        network: within `gathered`.
        names: of the parameters that have a gradient on any process, the same on all.
    """
    found: Sharding = vars(network)[_SHARDING]
    present, wanted = dict(network.named_parameters()), set(names)
    for _, own in found.units:
        kinds: dict[torch.dtype, list[str]] = {}
        for name in own:
            if name in wanted:
                kinds.setdefault(present[name].dtype, []).append(name)
        for chosen in kinds.values():
            _sum(found, {name: present[name] for name in chosen})


def _sum(found: Sharding, present: Mapping[str, nn.Parameter]) -> None:
    from torch.distributed.tensor import DTensor

    count = found.mesh.size(1)
    rows: list[list[Tensor]] = [[] for _ in range(count)]
    sizes = []
    for parameter in present.values():
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        # Those of `fully_shard`: as many rows to each as there are, the rest to the last ones.
        chunks = torch.chunk(gradient, count)
        size = chunks[0].numel()
        sizes.append(size)
        for place, row in enumerate(rows):
            part = chunks[place].flatten() if place < len(chunks) else gradient.new_empty(0)
            row.append(nn.functional.pad(part, (0, size - part.numel())))
        parameter.grad = None
    sent = torch.cat([each for row in rows for each in row])
    summed = sent.new_empty(sent.numel() // count)
    # Its name from torch 2.13 on, and before.
    scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
    scatter(summed, sent, group=found.mesh.get_group("shard"))
    if found.mesh.size(0) > 1:
        dist.all_reduce(summed, group=found.mesh.get_group("replicate"))
    for name, part in zip(present, torch.split(summed, sizes), strict=True):
        parameter = found.parameters[name]
        like: Any = parameter
        local = like.to_local()
        parameter.grad = DTensor.from_local(
            part[: local.numel()].view(local.shape).clone(),
            like.device_mesh,
            like.placements,
            run_check=False,
            shape=parameter.shape,
            stride=parameter.stride(),
        )


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor that may be divided; all processes ask for it together."""
    if not is_sharded(tensor):
        return tensor
    divided: Any = tensor
    full: Tensor = divided.full_tensor()
    return full


def own_part(tensor: Tensor) -> Tensor:
    """What a process has of a tensor that may be divided, in place."""
    if not is_sharded(tensor):
        return tensor
    divided: Any = tensor
    local: Tensor = divided.to_local()
    return local


def divided_like(value: Tensor, like: Tensor) -> Tensor:
    """A value as a tensor of its shape is divided and placed: itself where that is whole.

    A value that is whole is the same on all processes; one that is divided is so in the same way.
    """
    if not is_sharded(like) or value.shape != like.shape:
        return value
    from torch.distributed.tensor import DTensor, distribute_tensor

    target: Any = like
    mesh, placements = target.device_mesh, target.placements
    local = own_part(value).to(own_part(like).device)
    if not is_sharded(value):
        divided: Tensor = distribute_tensor(local, mesh, placements, src_data_rank=None)
        return divided
    return DTensor.from_local(
        local, mesh, placements, run_check=False, shape=value.shape, stride=value.stride()
    )


@torch.no_grad()
def assign(target: Tensor, value: Tensor) -> None:
    """Copy a value, whole or divided, into a tensor that may be divided."""
    own_part(target).copy_(own_part(divided_like(value, target)))


def empty_part(sharding: Sharding, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """A tensor on the CPU for a value that is read: divided if a parameter of its shape is."""
    from torch.distributed.tensor import zeros

    like: Any = next((p for p in sharding.parameters.values() if p.shape == shape), None)
    if like is None:
        return torch.zeros(shape, dtype=dtype)
    mesh = sharding.cpu if len(like.placements) > 1 else sharding.cpu["shard"]
    divided: Tensor = zeros(shape, dtype=dtype, device_mesh=mesh, placements=like.placements)
    return divided


def part_of(
    sharding: Sharding, local: Tensor, shape: Sequence[int], stride: Sequence[int]
) -> Tensor:
    """A part on the CPU, of a value that is divided as a parameter of its shape is."""
    from torch.distributed.tensor import DTensor

    like: Any = next(p for p in sharding.parameters.values() if list(p.shape) == list(shape))
    mesh = sharding.cpu if len(like.placements) > 1 else sharding.cpu["shard"]
    return DTensor.from_local(
        local,
        mesh,
        like.placements,
        run_check=False,
        shape=torch.Size(shape),
        stride=tuple(stride),
    )


def gather_state(network: nn.Module, *, frozen: bool, keep: bool) -> dict[str, Tensor]:
    """The whole of a network's parameters and buffers on the CPU, one tensor at a time on a device.

    All processes ask for it together. Those that do not `keep` it get nothing; without `frozen`
    only what is trained is gathered.
    """
    state = {}
    for name, tensor in network.state_dict(keep_vars=True).items():
        if frozen or tensor.requires_grad:
            full = whole(tensor.detach())
            if keep:
                state[name] = full.cpu()
    return state


@contextmanager
def holding(network: nn.Module, state: Mapping[str, Tensor]) -> Iterator[None]:
    """Have a divided network be of its own class, with this state, for those who write it."""
    divided = type(network)
    network.__class__ = vars(network)[_SHARDING].kind
    vars(network)["state_dict"] = lambda *_, **__: dict(state)
    try:
        yield
    finally:
        del vars(network)["state_dict"]
        network.__class__ = divided
