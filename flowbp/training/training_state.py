"""The state of training as files: tensors in safetensors, the rest in JSON, nothing pickled."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from flowbp.adapters.checkpointing import checkpointing_of
from flowbp.adapters.extras import require
from flowbp.training.backoff import in_portions
from flowbp.training.checkpoint import CheckpointError
from flowbp.training.early_stop import HeldOutFigures
from flowbp.training.inspection import TRAINING, write_manifest
from flowbp.training.metrics import Metrics
from flowbp.training.packing import pack, unpack
from flowbp.training.randomness import set_generator_states
from flowbp.training.sizes import Portions
from flowbp.training.state import RunState

_REST, _TENSORS = "state.json", "tensors.safetensors"


def write_training_state(run: RunState, checkpoint: Path, identity: str) -> None:
    """Write all that the next steps depend on into a checkpoint, beside the model.

    The parameters are written too, as they are trained, not averaged: the model's own files may
    hold the average, or round.

    Args:
        run: its state after a finished step.
        checkpoint: the folder, which holds the model already.
        identity: of the run; only a run of the same one will accept the checkpoint.

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
        "average": None if average is None else (average.updates, average.shadow),
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
    (folder / _REST).write_text(json.dumps(tree), encoding="utf-8")
    require("safetensors.torch").save_file(tensors, folder / _TENSORS)
    write_manifest(checkpoint, identity, run.done)


def restore_training_state(run: RunState, checkpoint: Path) -> None:
    """Put a run that has just started where a checkpoint was saved, bit for bit.

    Args:
        run: at its start.
        checkpoint: that `write_training_state` wrote.

    Raises:
        CheckpointError: the checkpoint cannot be read or is of another model, in its trained or
            its frozen parameters, or the prompts are other ones.

    Example:
        See `Trainer.run`.
    """
    saved, kept = _read(checkpoint, "rows", "evaluations", "frozen")
    _refuse_other_model(run.parameters, saved["parameters"], checkpoint)
    if kept["frozen"] != run.frozen:
        raise CheckpointError(
            f"the checkpoint {checkpoint} was trained on another base model: the parameters that "
            "are not trained have other values now, and what was trained belongs to those that "
            "they had; resume with the model that the run began with (its weights in `source` may "
            "have been replaced), or begin a new run"
        )
    try:
        run.prompts.go_to(**saved["mark"]["prompts"])
    except ValueError as error:
        raise CheckpointError(f"the checkpoint {checkpoint} cannot be resumed: {error}") from error
    with torch.no_grad():
        for name, parameter in run.parameters.items():
            parameter.copy_(saved["parameters"][name])
    _restore_optimizer(run.optimizer, saved["optimizer"])
    if run.average is not None:
        run.average.restore(*saved["average"])
    run.streams.set_states(saved["mark"]["streams"])
    set_generator_states(saved["mark"]["torch"], run.device)
    run.rows = [Metrics(**row) for row in kept["rows"]]
    run.evaluations = [HeldOutFigures(**row) for row in kept["evaluations"]]
    run.checkpoint = (run.done, checkpoint)
    _restore_portions(run, kept["portions"])
    run.set_mark()


def is_averaged(checkpoint: Path) -> bool:
    """Whether the model of a checkpoint is an average, so that its training state differs.

    Args:
        checkpoint: that `write_training_state` wrote.

    Returns:
        True if the run averaged its parameters.

    Raises:
        CheckpointError: there is no state of training, or it is damaged.

    Example:
        See `load_unaveraged`.
    """
    place = checkpoint / TRAINING / _REST
    try:
        tree = json.loads(place.read_text(encoding="utf-8"))
        state = unpack(tree["state"], defaultdict(lambda: torch.empty(0)))
        return state["average"] is not None
    except (ValueError, KeyError, OSError) as error:
        raise CheckpointError(
            f"the checkpoint {checkpoint} has no state of training that can be read "
            f"({type(error).__name__}: {error}), and so no weights but those of its model"
        ) from error


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
    saved = _read(checkpoint)[0]["parameters"]
    _refuse_other_model(parameters, saved, checkpoint)
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(saved[name])


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
    state = _read(checkpoint)[0]
    trained, average = state["parameters"], state["average"]
    _refuse_other_model(parameters, trained, checkpoint)
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(trained[name] if average is None else average[1][name])


def _read(checkpoint: Path, *needed: str) -> tuple[Any, dict[str, Any]]:
    folder, safetensors = checkpoint / TRAINING, require("safetensors.torch")
    try:
        tree = json.loads((folder / _REST).read_text(encoding="utf-8"))
        kept = {name: tree[name] for name in needed}
        # Portions that were never lowered may be left out.
        kept["portions"] = tree.get("portions")
        return unpack(tree["state"], safetensors.load_file(folder / _TENSORS)), kept
    except (ValueError, KeyError, OSError, require("safetensors").SafetensorError) as error:
        raise CheckpointError(
            f"the checkpoint {checkpoint} is damaged, or of another version of flowbp: its "
            f"training state cannot be read ({type(error).__name__}: {error}); take another "
            "checkpoint, or the version that wrote it"
        ) from error


def _portions(run: RunState) -> dict[str, Any]:
    return {"typed": _typed(run), "now": attrs.asdict(run.step.sizes)}


def _typed(run: RunState) -> dict[str, Any]:
    able = checkpointing_of(run.step.backbone)
    wish = None if able is None else able.gradient_checkpointing
    return {"batching": attrs.asdict(run.step.batching), "checkpointing": wish}


def _restore_portions(run: RunState, saved: Mapping[str, Any] | None) -> None:
    # Whoever types other sizes, on a larger device say, means those, and so with checkpointing.
    if saved is not None and saved.get("typed") == _typed(run):
        run.step, run.lowered = in_portions(run.step, Portions(**saved["now"])), True


def _refuse_other_model(
    parameters: Mapping[str, nn.Parameter], saved: Mapping[str, Tensor], checkpoint: Path
) -> None:
    mine = {name: (tuple(p.shape), p.dtype) for name, p in parameters.items()}
    theirs = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in saved.items()}
    differing = sorted(n for n in mine | theirs if mine.get(n) != theirs.get(n))
    if differing:
        name = differing[0]
        raise CheckpointError(
            f"the checkpoint {checkpoint} is of another model: {len(differing)} parameters differ, "
            f"the first is `{name}`, {theirs.get(name, 'absent')} in the checkpoint and "
            f"{mine.get(name, 'absent')} in the backbone; resume with the model it was trained from"
        )


def _restore_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    optimizer.load_state_dict(saved)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for number, values in saved["state"].items():
        present = optimizer.state[parameters[number]]
        for name, value in values.items():
            # torch rounds the state to the dtype of the parameter when it loads it, and what was
            # loaded may still be a view of the file, which is removed some day.
            if isinstance(value, Tensor):
                present[name] = value.to(present[name].device, copy=True)
