"""The state of training as a checkpoint holds it, whole and valid, or refused by name."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor

from flowbp.adapters.extras import require
from flowbp.configuration import DamagedError, Scalar, parsed, read_utf8, structured
from flowbp.core._validators import integer
from flowbp.files import digests
from flowbp.training.checkpoint import CheckpointError
from flowbp.training.early_stop import HeldOutFigures
from flowbp.training.manifest import MANIFEST, TRAINING, File, read_manifest
from flowbp.training.metrics import Metrics
from flowbp.training.packing import unpack
from flowbp.training.sizes import Portions

REST, TENSORS = "state.json", "tensors.safetensors"
_CURE = "take another checkpoint"


def _optimizer(value: Any) -> SavedOptimizer:
    content = value.value if isinstance(value, _Whole) else value
    if isinstance(content, Mapping) and content.keys() == {"state", "param_groups"}:
        return SavedOptimizer(**content)
    raise ValueError("`optimizer` must hold `state` and `param_groups`")


@attrs.frozen(kw_only=True)
class SavedAverage:
    """A moving average: how often it was updated, and its tensors by the parameters' names."""

    updates: int = attrs.field(validator=integer(0))
    shadow: Mapping[str, Tensor]


@attrs.frozen(kw_only=True)
class SavedOptimizer:
    """What `state_dict` of an optimizer holds, its tuples still tuples."""

    state: Mapping[int, Mapping[str, Any]] = attrs.field()
    param_groups: list[Mapping[str, Any]] = attrs.field()

    @state.validator
    def _check_state(self, _: Any, value: Any) -> None:
        if not (isinstance(value, Mapping) and all(map(_is_state, value.items()))):
            raise ValueError("`state` must hold values by name for the numbers of parameters")

    @param_groups.validator
    def _check_groups(self, _: Any, value: Any) -> None:
        if not (isinstance(value, list) and all(map(_is_group, value))):
            raise ValueError("`param_groups` must list mappings with the numbers of `params`")


def _is_state(item: tuple[Any, Any]) -> bool:
    number, values = item
    named = isinstance(values, Mapping) and all(isinstance(name, str) for name in values)
    return type(number) is int and named


def _is_group(group: Any) -> bool:
    return isinstance(group, Mapping) and isinstance(group.get("params"), list)


@attrs.frozen
class _Whole:
    """A value that is not to be taken apart, as lists and tuples would be the same then."""

    value: Any


@attrs.frozen(kw_only=True)
class Position:
    """Where in its prompts a run is."""

    taken: int = attrs.field(validator=integer(0))
    digest: str


@attrs.frozen(kw_only=True)
class Mark:
    """Where prompts and random generators are."""

    prompts: Position
    streams: Mapping[str, Tensor]
    torch: Mapping[str, Tensor]


@attrs.frozen(kw_only=True)
class SavedTensors:
    """What the next step computes with."""

    parameters: Mapping[str, Tensor]
    # What `_optimizer` makes of it; the annotation is what the file holds.
    optimizer: Any = attrs.field(converter=_optimizer)
    average: SavedAverage | None
    mark: Mark


@attrs.frozen(kw_only=True)
class SavedPortions:
    """Portions that were lowered, and the sizes as they were typed then."""

    typed: Mapping[str, Any]
    now: Portions


@attrs.frozen(kw_only=True)
class SavedState:
    """All that a checkpoint has besides its model.

    Args:
        rows: the figures of all steps, from the first.
        frozen: the fingerprint of what is not trained.
        evaluations: on held-out prompts.
        portions: that were lowered for want of memory; None if none were.
        state: what the next step computes with.

    Example:
        See `read_state`.
    """

    rows: tuple[Metrics, ...]
    frozen: str
    evaluations: tuple[HeldOutFigures, ...]
    portions: SavedPortions | None
    state: SavedTensors

    def __attrs_post_init__(self) -> None:
        """Refuse rows of which some are missing."""
        steps = [row.step for row in self.rows]
        if steps != list(range(1, len(steps) + 1)):
            raise ValueError("`rows` must be of the steps 1, 2, 3 and so on, without a gap")


def read_state(checkpoint: Path) -> SavedState:
    """Read the state of training of a checkpoint; nothing of it is used before all of it is valid.

    Args:
        checkpoint: that a run saved.

    Returns:
        The state.

    Raises:
        CheckpointError: a file is missing, not what was saved, or holds something else than a
            state of training.

    Example:
        See `restore_training_state`.
    """
    folder = checkpoint / TRAINING
    with _refused(checkpoint):
        manifest = read_manifest(checkpoint)
        tree = _unchanged(checkpoint, manifest.files, [REST, TENSORS])
        tensors = require("safetensors.torch").load_file(folder / TENSORS)
        if isinstance(tree, dict) and "state" in tree:
            tree["state"] = state = unpack(tree["state"], tensors)
            if isinstance(state, dict) and "optimizer" in state:
                state["optimizer"] = _Whole(state["optimizer"])
        found = structured(SavedState, tree, folder / REST, _CURE, scalars=_SCALARS)
        if len(found.rows) != manifest.step:
            problem = f"has {len(found.rows)} rows, and was saved after step {manifest.step}"
            raise DamagedError(folder / REST, problem, _CURE)
    return found


def is_averaged(checkpoint: Path) -> bool:
    """Whether the model of a checkpoint is an average, so that its training state differs.

    Args:
        checkpoint: that a run saved; its tensors are not read.

    Returns:
        True if the run averaged its parameters.

    Raises:
        CheckpointError: there is no state of training, or it is damaged.

    Example:
        See `load_unaveraged`.
    """
    with _refused(checkpoint):
        tree = _unchanged(checkpoint, read_manifest(checkpoint).files, [REST])
        found = structured(_Described, tree, checkpoint / TRAINING / REST, _CURE)
        state = unpack(found.state, defaultdict(lambda: torch.empty(0)))
        if not isinstance(state, dict) or "average" not in state:
            raise DamagedError(checkpoint / TRAINING / REST, "says nothing of an average", _CURE)
        return state["average"] is not None


@attrs.frozen(kw_only=True)
class _Described:
    """A state of training whose tensors have not been read."""

    rows: Any
    frozen: Any
    evaluations: Any
    portions: Any
    state: Any


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


def _unchanged(checkpoint: Path, files: Mapping[str, File], names: Sequence[str]) -> Any:
    """What the first of some files of the state holds, once all of them are as they were saved."""
    paths = [f"{TRAINING}/{name}" for name in names]
    missing = [name for name in paths if name not in files]
    if missing:
        problem = f"says nothing of {missing[0]}: the checkpoint has no state of training"
        raise DamagedError(checkpoint / MANIFEST, problem, _CURE)
    for name, digest in digests(checkpoint, paths).items():
        if digest != files[name].sha256:
            raise DamagedError(checkpoint / name, "is not what was saved", _CURE)
    first = checkpoint / paths[0]
    return parsed(read_utf8(first, _CURE), first, _CURE)


def _tensor(value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value
    raise ValueError(f"must be a tensor, got {type(value).__name__}")


_SCALARS = [Scalar(Tensor, read=_tensor, write=lambda value: value)]
