"""Whether a saved state of training belongs to a run, found out before anything is changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flowbp.training.checkpoint import CheckpointError
from flowbp.training.optimization import OptimizerRecipe
from flowbp.training.saved_state import SavedOptimizer, SavedState
from flowbp.training.state import RunState

_STATES = torch.get_rng_state().dtype


def refuse_other(
    run: RunState, saved: SavedState, checkpoint: Path, optimizer: OptimizerRecipe
) -> None:
    """Refuse a state that does not fit a run in all of its parts.

    Args:
        run: at its start.
        saved: what the checkpoint holds.
        checkpoint: for the message.
        optimizer: that built the run's.

    Raises:
        CheckpointError: with the first part that does not fit.

    Example:
        See `restore_training_state`.
    """
    refuse_other_model(run.parameters, saved.state.parameters, checkpoint)
    if saved.frozen != run.frozen:
        raise CheckpointError(
            f"the checkpoint {checkpoint} was trained on another base model: the parameters that "
            "are not trained have other values now, and what was trained belongs to those that "
            "they had; resume with the model that the run began with (its weights in `source` may "
            "have been replaced), or begin a new run"
        )
    found = next(_faults(run, saved, optimizer), None)
    if found is not None:
        raise CheckpointError(
            f"the checkpoint {checkpoint} cannot be resumed: {found}; resume with the settings "
            "that the run began with, or take another checkpoint"
        )


def refuse_other_model(
    parameters: Mapping[str, nn.Parameter], saved: Mapping[str, Tensor], checkpoint: Path
) -> None:
    """Refuse saved parameters that are of other names, shapes or dtypes.

    Args:
        parameters: of the run.
        saved: those of the checkpoint.
        checkpoint: for the message.

    Raises:
        CheckpointError: with the first that differs.

    Example:
        See `load_trained`.
    """
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


def _faults(run: RunState, saved: SavedState, optimizer: OptimizerRecipe) -> Iterator[str]:
    state = saved.state
    if (run.average is None) != (state.average is None):
        yield f"it has {'no' if state.average is None else 'an'} average, and the run the contrary"
    if run.average is not None and state.average is not None:
        yield from _differing("average", run.average.shadow, state.average.shadow)
    yield from _faults_of_optimizer(run, state.optimizer, optimizer)
    yield from _faults_of_generators("streams", run.streams.states(), state.mark.streams)
    if "cpu" not in state.mark.torch:
        yield "its state of torch's generator is missing"
    plain = {"cpu": torch.get_rng_state()}
    own = {name: each for name, each in state.mark.torch.items() if name == "cpu"}
    yield from _faults_of_generators("torch", plain, own)
    for name, each in state.mark.torch.items():
        if each.dtype != _STATES or each.dim() != 1:
            yield f"its state of the generator `{name}` is none"
    steps = [row.step for row in saved.evaluations]
    if steps != sorted(set(steps)) or any(not 0 <= step <= len(saved.rows) for step in steps):
        yield f"its evaluations are of the steps {steps}, and it was saved after {len(saved.rows)}"


def _faults_of_optimizer(
    run: RunState, saved: SavedOptimizer, recipe: OptimizerRecipe
) -> Iterator[str]:
    present = run.optimizer.state_dict()["param_groups"]
    shapes = [(sorted(group), list(group["params"])) for group in present]
    if [(sorted(group), list(group["params"])) for group in saved.param_groups] != shapes:
        yield "its optimizer has other groups of parameters or other options"
    parameters = [p for group in run.optimizer.param_groups for p in group["params"]]
    strange = sorted(saved.state.keys() - set(range(len(parameters))))
    if strange:
        yield f"its optimizer has a state of parameter {strange[0]} of {len(parameters)}"
        return
    expected: dict[Any, Mapping[str, Any] | None] = {}
    for number, values in saved.state.items():
        parameter = parameters[number]
        kind = parameter.dtype, parameter.dim()
        if kind not in expected:
            expected[kind] = _rehearsed(recipe, parameter)
        wanted = expected[kind]
        if wanted is None:
            continue
        if values.keys() != wanted.keys():
            yield (
                f"its optimizer's state of parameter {number} has {', '.join(sorted(values))} "
                f"instead of {', '.join(sorted(wanted))}"
            )
        for name, value in values.items():
            if not _alike(value, wanted.get(name), parameter):
                yield f"its optimizer's `{name}` of parameter {number} is of another kind or shape"


def _rehearsed(recipe: OptimizerRecipe, like: nn.Parameter) -> Mapping[str, Any] | None:
    """The state of a small parameter after one step; None where that tells nothing."""
    sample = nn.Parameter(torch.zeros([2] * like.dim(), dtype=like.dtype))
    sample.grad = torch.ones_like(sample)
    try:
        optimizer = recipe.build([sample])
        optimizer.step()
    # An optimizer of the user's own, perhaps for parameters of a certain shape.
    except Exception:
        return None
    found: Mapping[str, Any] = optimizer.state[sample]
    return found


def _alike(value: Any, wanted: Any, parameter: nn.Parameter) -> bool:
    if not isinstance(wanted, Tensor):
        return not isinstance(value, Tensor)
    if not isinstance(value, Tensor) or value.dtype != wanted.dtype:
        return False
    whole = wanted.dim() > 0 and wanted.dim() == parameter.dim() and 1 not in wanted.shape
    return value.shape == parameter.shape if whole else value.dim() == wanted.dim()


def _faults_of_generators(
    what: str, present: Mapping[str, Tensor], saved: Mapping[str, Tensor]
) -> Iterator[str]:
    yield from _differing(what, present, saved)
    for name in present.keys() & saved.keys():
        try:
            torch.Generator().set_state(saved[name])
        except (RuntimeError, TypeError) as error:
            yield f"its state of the generator `{name}` is none ({error})"


def _differing(
    what: str, present: Mapping[str, Tensor], saved: Mapping[str, Tensor]
) -> Iterator[str]:
    mine = {name: (tuple(each.shape), each.dtype) for name, each in present.items()}
    theirs = {name: (tuple(each.shape), each.dtype) for name, each in saved.items()}
    for name in sorted(mine | theirs):
        if mine.get(name) != theirs.get(name):
            yield (
                f"its `{what}.{name}` is {theirs.get(name, 'absent')}, and the run's is "
                f"{mine.get(name, 'absent')}"
            )
