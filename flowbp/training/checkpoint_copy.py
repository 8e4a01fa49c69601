"""What a checkpoint holds: copied to the host's memory, so that training goes on, or as it is."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from torch import Tensor

from flowbp.adapters.capabilities import copy_for_saving_of, frozen_parts_of
from flowbp.adapters.lora_layers import only_adapters_train
from flowbp.adapters.sharding import holding
from flowbp.host_memory import free_host_memory
from flowbp.training.device_memory import GIB, RESERVE
from flowbp.training.frozen_files import FrozenFiles
from flowbp.training.run_state import RunState
from flowbp.training.sharded_state import GatherModel, ask, network_of
from flowbp.training.training_state import training_state_copy

Write = Callable[[Path], Mapping[str, str]]
"""Writes what a checkpoint holds into a folder; returns the SHA-256 of files that it has linked."""


class HostMemoryWarning(UserWarning):
    """The host's memory is too small for a copy of what a checkpoint holds."""


def copied(run: RunState, frozen: FrozenFiles) -> Write | None:
    """Copy what a checkpoint holds, or return None where it has to be written without a copy.

    So it is where processes share the model, which they write together; where the backbone has no
    `copy_for_saving`; where its frozen parts are not written yet, for which encoders are loaded
    again; in the middle of an update; and where memory is short.
    """
    backbone = run.step.backbone
    copy_model, parts = copy_for_saving_of(backbone), frozen_parts_of(backbone)
    if copy_model is None or network_of(run) is not None or run.updating:
        return None
    if parts and not frozen.are_there():
        return None
    needed, free = _bytes(run), free_host_memory()
    if free is not None and needed > (1 - RESERVE) * free:
        warnings.warn(
            f"a checkpoint is written beside training from a copy in the host's memory, which has "
            f"no room for its {needed / GIB:.1f} GiB; training waits while it is written",
            HostMemoryWarning,
            stacklevel=2,
        )
        return None
    with run.averaged():
        write_model = copy_model()
    write_state = training_state_copy(run)

    def write(folder: Path) -> Mapping[str, str]:
        linked = frozen.put_into(folder) if parts else {}
        write_model(folder)
        write_state(folder)
        return linked

    return write


def write_model(
    run: RunState, folder: Path, *, frozen: FrozenFiles, averaged: bool
) -> Mapping[str, str]:
    """Write the model's files as they are now, of which those that are `frozen` are linked."""
    backbone: Any = run.step.backbone
    known: dict[str, str] = {}
    write: Callable[[Path], object] = backbone.save
    if frozen_parts_of(backbone) and frozen.are_there():
        known |= frozen.put_into(folder)
        write = backbone.save_trained
    network = network_of(run)
    if network is not None:
        with holding(network, ask(run, GatherModel(averaged))):
            write(folder)
        return known
    with run.averaged() if averaged else nullcontext():
        write(folder)
    return known


def _bytes(run: RunState) -> int:
    """What the copy takes: parameters, optimizer and average, and the model that is used."""
    trained = list(run.parameters.values())
    own = sum(each.nbytes for each in trained)
    values = (value for state in run.optimizer.state.values() for value in state.values())
    optimizer = sum(value.nbytes for value in values if isinstance(value, Tensor))
    average = 0 if run.average is None else sum(p.numel() * max(p.itemsize, 4) for p in trained)
    network = run.step.backbone.module
    model = own
    if not only_adapters_train(network):
        model = sum(tensor.nbytes for tensor in network.state_dict(keep_vars=True).values())
    return own + optimizer + average + model
