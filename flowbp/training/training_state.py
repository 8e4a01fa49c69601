"""The state of training as files: tensors in safetensors, the rest in JSON, nothing pickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from flowbp.adapters.checkpointing import checkpointing_of
from flowbp.adapters.extras import require
from flowbp.training.backoff import in_portions
from flowbp.training.belonging import refuse_other, refuse_other_model
from flowbp.training.checkpoint import CheckpointError
from flowbp.training.manifest import TRAINING
from flowbp.training.optimization import OptimizerRecipe
from flowbp.training.packing import pack
from flowbp.training.randomness import set_generator_states
from flowbp.training.saved_state import (
    REST,
    TENSORS,
    SavedOptimizer,
    SavedPortions,
    read_state,
)
from flowbp.training.state import RunState


def write_training_state(run: RunState, checkpoint: Path) -> None:
    """Write all that the next steps depend on into a checkpoint, beside the model.

    The parameters are written too, as they are trained, not averaged: the model's own files may
    hold the average, or round.

    Args:
        run: its state after a finished step.
        checkpoint: the folder, which holds the model already.

    Raises:
        TypeError: the optimizer has a state that only pickling could save.

    Example:
        See `Checkpoints`.
    """
    tensors: dict[str, Tensor] = {}
    average = run.average
    state = {
        "parameters": dict(run.parameters),
        "optimizer": run.optimizer.state_dict(),
        "average": average and {"updates": average.updates, "shadow": average.shadow},
        "mark": run.mark,
    }
    tree = {
        "rows": [attrs.asdict(row) for row in run.rows],
        "frozen": run.frozen,
        "evaluations": [attrs.asdict(row) for row in run.evaluations],
        "portions": _portions(run) if run.lowered else None,
        "state": pack(state, "state", tensors),
    }
    folder = checkpoint / TRAINING
    folder.mkdir()
    (folder / REST).write_text(json.dumps(tree), encoding="utf-8")
    require("safetensors.torch").save_file(tensors, folder / TENSORS)


def restore_training_state(run: RunState, checkpoint: Path, optimizer: OptimizerRecipe) -> None:
    """Put a run that has just started where a checkpoint was saved, bit for bit.

    All of the state is read and held against the run first: one that is refused leaves model and
    optimizer as they were.

    Args:
        run: at its start.
        checkpoint: that `write_training_state` wrote.
        optimizer: that built the run's.

    Raises:
        CheckpointError: the checkpoint is damaged or of another model, in its trained or its
            frozen parameters, of another optimizer, or the prompts are other ones.

    Example:
        See `Trainer.run`.
    """
    kept = read_state(checkpoint)
    saved = kept.state
    refuse_other(run, kept, checkpoint, optimizer)
    try:
        run.prompts.go_to(saved.mark.prompts.taken, saved.mark.prompts.digest)
    except ValueError as error:
        raise CheckpointError(f"the checkpoint {checkpoint} cannot be resumed: {error}") from error
    _set(run.parameters, saved.parameters)
    _restore_optimizer(run.optimizer, saved.optimizer)
    if run.average is not None and saved.average is not None:
        run.average.restore(saved.average.updates, saved.average.shadow)
    run.streams.set_states(saved.mark.streams)
    set_generator_states(saved.mark.torch, run.device)
    run.rows = list(kept.rows)
    run.evaluations = list(kept.evaluations)
    run.checkpoint = (run.done, checkpoint)
    _restore_portions(run, kept.portions)
    run.set_mark()


def load_unaveraged(parameters: Mapping[str, nn.Parameter], checkpoint: Path) -> None:
    """Set parameters to what a checkpoint's training would go on with, not to their average.

    Args:
        parameters: by the names that training knows them by.
        checkpoint: that `write_training_state` wrote.

    Raises:
        CheckpointError: the state cannot be read or is of another model.

    Example:
        ``load_unaveraged(backbone.trainable(), Path("runs/a/checkpoints/final"))``
    """
    saved = read_state(checkpoint).state.parameters
    refuse_other_model(parameters, saved, checkpoint)
    _set(parameters, saved)


def load_trained(parameters: Mapping[str, nn.Parameter], checkpoint: Path) -> None:
    """Set parameters to those of a checkpoint's model: the average where its run averaged.

    Args:
        parameters: by the names that training knows them by.
        checkpoint: that `write_training_state` wrote.

    Raises:
        CheckpointError: the state cannot be read or is of another model.

    Example:
        ``load_trained(backbone.trainable(), Path("runs/a/checkpoints/best-000075"))``
    """
    state = read_state(checkpoint).state
    refuse_other_model(parameters, state.parameters, checkpoint)
    _set(parameters, state.parameters if state.average is None else state.average.shadow)


@torch.no_grad()
def _set(parameters: Mapping[str, nn.Parameter], values: Mapping[str, Tensor]) -> None:
    for name, parameter in parameters.items():
        parameter.copy_(values[name])


def _portions(run: RunState) -> dict[str, Any]:
    return {"typed": _typed(run), "now": attrs.asdict(run.step.sizes)}


def _typed(run: RunState) -> dict[str, Any]:
    able = checkpointing_of(run.step.backbone)
    wish = None if able is None else able.gradient_checkpointing
    return {"batching": attrs.asdict(run.step.batching), "checkpointing": wish}


def _restore_portions(run: RunState, saved: SavedPortions | None) -> None:
    # Whoever types other sizes, on a larger device say, means those, and so with checkpointing.
    if saved is not None and saved.typed == _typed(run):
        run.step, run.lowered = in_portions(run.step, saved.now), True


def _restore_optimizer(optimizer: torch.optim.Optimizer, saved: SavedOptimizer) -> None:
    optimizer.load_state_dict({"state": saved.state, "param_groups": saved.param_groups})
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for number, values in saved.state.items():
        present = optimizer.state[parameters[number]]
        for name, value in values.items():
            # torch rounds the state to the dtype of the parameter when it loads it, and what was
            # loaded may still be a view of the file, which is removed some day.
            if isinstance(value, Tensor):
                present[name] = value.to(present[name].device, copy=True)
