"""The state of training as files: tensors in safetensors, the rest in JSON, nothing pickled."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from flowbp.adapters.capabilities import checkpointing_of
from flowbp.adapters.sharding import Sharding, assign, is_sharded
from flowbp.config import DamagedError, Scalar, parse_json, read_utf8, structure_record
from flowbp.extras import require
from flowbp.files import digests
from flowbp.training.batching import Portions
from flowbp.training.checkpoint import (
    CURE,
    MANIFEST,
    STATE,
    STATE_FILE,
    TENSORS,
    TRAINING,
    CheckpointError,
    Manifest,
    read_manifest,
)
from flowbp.training.metrics import HeldOutMetrics, Metrics
from flowbp.training.packing import pack, unpack
from flowbp.training.run_state import Mark, RunState
from flowbp.training.sharded_state import SHARDS, WriteShards, ask, read_shards
from flowbp.validators import integer

_TENSORS_FILE = f"{TRAINING}/{TENSORS}"
_SHARDS_FOLDER = f"{TRAINING}/{SHARDS}"


@attrs.frozen(kw_only=True)
class SavedAverage:
    """A moving average: how often it was updated, and its tensors by the parameters' names."""

    updates: int = attrs.field(validator=integer(0))
    shadow: Mapping[str, Tensor]


@attrs.frozen(kw_only=True)
class SavedOptimizer:
    """What `state_dict` of an optimizer holds, its tuples still tuples."""

    state: Mapping[int, Mapping[str, Any]]
    param_groups: list[Mapping[str, Any]]

    def __attrs_post_init__(self) -> None:
        """Refuse what no `state_dict` holds."""
        if not (isinstance(self.state, Mapping) and all(map(_is_state, self.state.items()))):
            raise ValueError("`state` must hold values by name for the numbers of parameters")
        if not (isinstance(self.param_groups, list) and all(map(_is_group, self.param_groups))):
            raise ValueError("`param_groups` must list mappings with the numbers of `params`")


def _is_state(item: tuple[Any, Any]) -> bool:
    number, values = item
    named = isinstance(values, Mapping) and all(isinstance(name, str) for name in values)
    return type(number) is int and named


def _is_group(group: Any) -> bool:
    return isinstance(group, Mapping) and isinstance(group.get("params"), list)


@attrs.frozen(kw_only=True)
class SavedPortions:
    """Portions that were lowered, and the sizes as they were typed then."""

    typed: Mapping[str, Any]
    now: Portions


@attrs.frozen(kw_only=True)
class SavedState:
    """All that a checkpoint has besides its model."""

    rows: tuple[Metrics, ...]
    frozen: str
    evaluations: tuple[HeldOutMetrics, ...]
    portions: SavedPortions | None
    parameters: Mapping[str, Tensor]
    # A `SavedOptimizer`, which is not taken apart: its lists and tuples would be the same then.
    optimizer: Any = attrs.field(validator=attrs.validators.instance_of(SavedOptimizer))
    average: SavedAverage | None
    mark: Mark

    def __attrs_post_init__(self) -> None:
        """Refuse rows of which some are missing."""
        steps = [row.step for row in self.rows]
        if steps != list(range(1, len(steps) + 1)):
            raise ValueError("`rows` must be of the steps 1, 2, 3 and so on, without a gap")


def _tensor(value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value
    raise ValueError(f"must be a tensor, got {type(value).__name__}")


_SCALARS = [Scalar(Tensor, read=_tensor, write=lambda value: value)]


def read_state(checkpoint: Path, sharding: Sharding | None = None) -> SavedState:
    """Read the state of training of a checkpoint, or refuse it if not all of it is valid.

    Shards are read as a model that is divided by `sharding` has them; whole without.
    """
    path = checkpoint / STATE_FILE
    with _refused(checkpoint):
        manifest = read_manifest(checkpoint)
        shards = [name for name in manifest.files if name.startswith(f"{_SHARDS_FOLDER}/")]
        _refuse_changed(checkpoint, manifest, [STATE_FILE, _TENSORS_FILE, *shards])
        tensors = require("safetensors.torch").load_file(checkpoint / _TENSORS_FILE)
        if shards:
            tensors |= read_shards(checkpoint / _SHARDS_FOLDER, sharding)
        tree, state = _parsed(path, tensors)
        optimizer = state.get("optimizer")
        if not isinstance(optimizer, dict) or optimizer.keys() != {"state", "param_groups"}:
            raise ValueError("`optimizer` must hold `state` and `param_groups`")
        whole = {**tree, **state, "optimizer": SavedOptimizer(**optimizer)}
        found = structure_record(SavedState, whole, path, CURE, scalars=_SCALARS)
        if len(found.rows) != manifest.step:
            problem = f"has {len(found.rows)} rows, and was saved after step {manifest.step}"
            raise DamagedError(path, problem, CURE)
    return found


def is_averaged(checkpoint: Path) -> bool:
    """Whether the model of a checkpoint is an average, so that its training state differs."""
    with _refused(checkpoint):
        _refuse_changed(checkpoint, read_manifest(checkpoint), [STATE_FILE])
        # The tensors have not been read.
        _, state = _parsed(checkpoint / STATE_FILE, defaultdict(lambda: torch.empty(0)))
        if "average" not in state:
            raise DamagedError(checkpoint / STATE_FILE, "says nothing of an average", CURE)
        return state["average"] is not None


@contextmanager
def _refused(checkpoint: Path) -> Iterator[None]:
    refusals = (ValueError, RecursionError, OSError, require("safetensors").SafetensorError)
    try:
        yield
    except refusals as error:
        raise CheckpointError(
            f"the checkpoint {checkpoint} is damaged, or of another version of flowbp: its "
            f"training state cannot be read ({error}); take another checkpoint, or the version "
            "that wrote it"
        ) from error


def _refuse_changed(checkpoint: Path, manifest: Manifest, names: Sequence[str]) -> None:
    missing = [name for name in names if name not in manifest.files]
    if missing:
        problem = f"says nothing of {missing[0]}: the checkpoint has no training state"
        raise DamagedError(checkpoint / MANIFEST, problem, CURE)
    for name, digest in digests(checkpoint, names).items():
        if digest != manifest.files[name].sha256:
            raise DamagedError(checkpoint / name, "is not what was saved", CURE)


def _parsed(
    path: Path, tensors: Mapping[str, Tensor]
) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """What is plain in the file of the state, and what was packed."""
    tree = parse_json(read_utf8(path, CURE), path, CURE)
    if isinstance(tree, dict):
        state = unpack(tree.pop("state", None), tensors)
        if isinstance(state, dict):
            return tree, state
    raise DamagedError(path, "must hold an object whose `state` is a mapping", CURE)


def write_training_state(run: RunState, checkpoint: Path) -> None:
    """Write all that the next steps depend on into a checkpoint, beside the model.

    The parameters are written too, as they are trained, not averaged: the model's own files may
    hold the average, or round. Of a sharded model each process writes its shards.
    """
    text, tensors = _state_files(run)
    undivided = {name: tensor for name, tensor in tensors.items() if not is_sharded(tensor)}
    folder = _write_state_files(text, undivided, checkpoint)
    if len(undivided) < len(tensors):
        ask(run, WriteShards(str(folder / SHARDS)))


def training_state_copy(run: RunState) -> Callable[[Path], object]:
    """Copy a state that is not sharded to the CPU; the function does `write_training_state`."""
    text, tensors = _state_files(run)
    copies = {name: tensor.to("cpu", copy=True) for name, tensor in tensors.items()}
    return partial(_write_state_files, text, copies)


def _state_files(run: RunState) -> tuple[str, dict[str, Tensor]]:
    """The text of the state's file, and the tensors that it names."""
    tensors: dict[str, Tensor] = {}
    state = packed_state(run, tensors)
    portions = {"typed": typed_portions(run), "now": attrs.asdict(run.step.sizes)}
    tree = {
        "rows": [attrs.asdict(row) for row in run.rows],
        "frozen": run.frozen,
        "evaluations": [attrs.asdict(row) for row in run.evaluations],
        "portions": portions if run.lowered else None,
        "state": state,
    }
    return json.dumps(tree), tensors


def _write_state_files(text: str, tensors: Mapping[str, Tensor], checkpoint: Path) -> Path:
    folder = checkpoint / TRAINING
    folder.mkdir()
    (folder / STATE).write_text(text, encoding="utf-8")
    require("safetensors.torch").save_file(dict(tensors), folder / TENSORS)
    return folder


def packed_state(run: RunState, tensors: dict[str, Tensor]) -> Any:
    """Parameters, optimizer, average and generators, packed; their tensors by name."""
    average = run.average
    state = {
        "parameters": dict(run.parameters),
        "optimizer": run.optimizer.state_dict(),
        "average": average and {"updates": average.updates, "shadow": average.shadow},
        "mark": attrs.asdict(run.mark),
    }
    return pack(state, "state", tensors)


def refuse_other_model(
    parameters: Mapping[str, nn.Parameter], saved: Mapping[str, Tensor], checkpoint: Path
) -> None:
    """Refuse saved parameters that are of other names, shapes or dtypes."""
    differing = differences(parameters, saved)
    if differing:
        name, (mine, theirs) = next(iter(differing.items()))
        raise CheckpointError(
            f"the checkpoint {checkpoint} is of another model: {len(differing)} parameters differ, "
            f"the first is `{name}`, {theirs} in the checkpoint and {mine} in the backbone; resume "
            "with the model it was trained from"
        )


def differences(
    present: Mapping[str, Tensor], saved: Mapping[str, Tensor]
) -> dict[str, tuple[object, object]]:
    """Where names, shapes or dtypes differ: what is present, and what was saved, by name."""
    mine, theirs = (
        {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in each.items()}
        for each in (present, saved)
    )
    return {
        name: (mine.get(name, "absent"), theirs.get(name, "absent"))
        for name in sorted(mine | theirs)
        if mine.get(name) != theirs.get(name)
    }


def load_unaveraged(parameters: Mapping[str, nn.Parameter], checkpoint: Path) -> None:
    """Set parameters to what a checkpoint's training would go on with, not to their average."""
    saved = read_state(checkpoint).parameters
    refuse_other_model(parameters, saved, checkpoint)
    set_parameters(parameters, saved)


def load_trained(
    parameters: Mapping[str, nn.Parameter], checkpoint: Path, sharding: Sharding | None = None
) -> None:
    """Set parameters to those of a checkpoint's model: the average where its run averaged."""
    saved = read_state(checkpoint, sharding)
    refuse_other_model(parameters, saved.parameters, checkpoint)
    set_parameters(parameters, saved.average.shadow if saved.average else saved.parameters)


@torch.no_grad()
def set_parameters(parameters: Mapping[str, nn.Parameter], values: Mapping[str, Tensor]) -> None:
    """Copy values into parameters, by name."""
    for name, parameter in parameters.items():
        assign(parameter, values[name])


def typed_portions(run: RunState) -> dict[str, Any]:
    """The sizes as they were typed, whatever was chosen or lowered since."""
    able = checkpointing_of(run.step.backbone)
    wish = None if able is None else able.gradient_checkpointing
    return {"batching": attrs.asdict(run.step.batching), "checkpointing": wish}
