"""Resuming a run: a saved state is checked against the run before anything changes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flowbp.adapters.sharding import divided_like, own_part, sharding_of, whole
from flowbp.rank_errors import RanksDifferError
from flowbp.training.checkpoint import CheckpointError
from flowbp.training.optimization import OptimizerRecipe, rehearsed
from flowbp.training.packing import is_composite
from flowbp.training.randomness import set_generator_states
from flowbp.training.ranks import Ranks
from flowbp.training.run_state import RunState
from flowbp.training.sharded_state import OfShards
from flowbp.training.step import in_portions
from flowbp.training.training_state import (
    SavedOptimizer,
    SavedState,
    differences,
    read_state,
    refuse_other_model,
    set_parameters,
    typed_portions,
)

# Integers of as many bytes. Their sums wrap around, and so do not depend on the order of addition.
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_PART = 2**24
_GENERATOR_STATE = torch.get_rng_state().dtype


def frozen_fingerprint(module: nn.Module, trained: Iterable[Tensor]) -> str:
    """A digest of all parameters and saved buffers of a network that are not trained.

    Of each tensor go in: name, shape, dtype, and for every 2^24 elements the sum of their bits
    read as integers, modulo 2^64. It costs one reading of the weights, is exact, and is the same
    on every device.
    """
    changing = {id(parameter) for parameter in trained}
    # With keep_vars the tensors themselves, not copies of the handles.
    state = module.state_dict(keep_vars=True)
    frozen = {name: each for name, each in sorted(state.items()) if id(each) not in changing}
    digest = hashlib.sha256()
    for name, tensor in frozen.items():
        fact = [name, list(tensor.shape), str(tensor.dtype), _sums(whole(tensor.detach()))]
        digest.update(json.dumps(fact).encode())
    return digest.hexdigest()


def _sums(tensor: Tensor) -> list[int]:
    bits = tensor.view(_INTEGERS[tensor.element_size()]).flatten()
    # In parts, as the sum makes a copy in 64 bits, and so that where a bit stands counts a little.
    sums = torch.stack([part.sum(dtype=torch.int64) for part in torch.split(bits, _PART)])
    # One transfer for each tensor, not for each part.
    found: list[int] = sums.tolist()
    return found


def refuse_differing_models(network: nn.Module, ranks: Ranks) -> None:
    """Refuse to train where processes hold other weights than the first; none is sharded yet."""
    if ranks.size == 1:
        return
    found = ranks.exchange([_sums(each.detach()) for each in network.state_dict().values()])
    other = next((rank for rank, each in enumerate(found) if each != found[0]), None)
    if other is not None:
        raise RanksDifferError(
            f"rank {other} holds other weights than rank 0: the files that they were loaded from "
            "differ, or a part that was replaced from Python draws at random; every process must "
            "build the same model"
        )


def restore_training_state(run: RunState, checkpoint: Path, optimizer: OptimizerRecipe) -> None:
    """Put a run that has just started where a checkpoint was saved, bit for bit.

    A state that is refused leaves model and optimizer as they were.
    """
    saved = read_state(checkpoint, sharding_of(getattr(run.step.backbone, "module", None)))
    _refuse_mismatch(run, saved, checkpoint, optimizer)
    try:
        run.prompts.go_to(saved.mark.prompts)
    except ValueError as error:
        raise CheckpointError(f"the checkpoint {checkpoint} cannot be resumed: {error}") from error
    set_parameters(run.parameters, saved.parameters)
    _restore_optimizer(run.optimizer, saved.optimizer)
    if run.average is not None and saved.average is not None:
        run.average.restore(saved.average.updates, saved.average.shadow)
    run.streams.set_states(saved.mark.streams)
    set_generator_states(saved.mark.torch, run.device)
    run.rows, run.evaluations = list(saved.rows), list(saved.evaluations)
    run.checkpoint = (run.done, checkpoint)
    portions = saved.portions
    # Whoever types other sizes, on a larger device say, means those, and so with checkpointing.
    if portions is not None and portions.typed == typed_portions(run):
        run.step, run.lowered = in_portions(run.step, portions.now), True
    run.set_mark()


def _restore_optimizer(optimizer: torch.optim.Optimizer, saved: SavedOptimizer) -> None:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state = {
        number: {
            name: divided_like(value, parameters[number]) if isinstance(value, Tensor) else value
            for name, value in values.items()
        }
        for number, values in saved.state.items()
    }
    optimizer.load_state_dict({"state": state, "param_groups": saved.param_groups})
    for number, values in state.items():
        present = optimizer.state[parameters[number]]
        for name, value in values.items():
            # torch rounds the state to the dtype of the parameter when it loads it, and what was
            # loaded may still be a view of the file, which is removed some day.
            if isinstance(value, Tensor):
                # A composite one is a copy already.
                copy = not is_composite(own_part(value))
                present[name] = value.to(present[name].device, copy=copy)


def _refuse_mismatch(
    run: RunState, saved: SavedState, checkpoint: Path, optimizer: OptimizerRecipe
) -> None:
    """Refuse a state that does not fit a run in all of its parts, with the first fault."""
    refuse_other_model(run.parameters, saved.parameters, checkpoint)
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


def _faults(run: RunState, saved: SavedState, optimizer: OptimizerRecipe) -> Iterator[str]:
    if (run.average is None) != (saved.average is None):
        yield f"it has {'no' if saved.average is None else 'an'} average, and the run the contrary"
    taken, total = saved.mark.prompts.taken, run.step.total
    if taken != len(saved.rows) * total:
        before = taken // max(len(saved.rows), 1)
        yield (
            f"it was trained on batches of {before} samples, and this run has {total} in a step "
            f"({run.step.own} on each of {run.step.ranks.size} processes)"
        )
    if run.average is not None and saved.average is not None:
        yield from _differing("average", run.average.shadow, saved.average.shadow)
    yield from _faults_of_optimizer(run, saved.optimizer, optimizer)
    streams, own = saved.mark.streams, saved.mark.torch
    yield from _differing("streams", run.streams.states(), streams)
    cpu = {name: state for name, state in own.items() if name == "cpu"}
    yield from _differing("torch", {"cpu": torch.get_rng_state()}, cpu)
    for name, state in own.items():
        if state.dtype != _GENERATOR_STATE or state.dim() != 1:
            yield f"its state of the generator `{name}` is none"
    for name, state in {**streams, **cpu}.items():
        try:
            torch.Generator().set_state(state)
        except (RuntimeError, TypeError) as error:
            yield f"its state of the generator `{name}` is none ({error})"
    steps = [row.step for row in saved.evaluations]
    if steps != sorted(set(steps)) or any(not 0 <= step <= len(saved.rows) for step in steps):
        yield f"its evaluations are of the steps {steps}, and it was saved after {len(saved.rows)}"


def _faults_of_optimizer(
    run: RunState, saved: SavedOptimizer, recipe: OptimizerRecipe
) -> Iterator[str]:
    present = run.optimizer.state_dict()["param_groups"]
    if not _groups_alike(present, saved.param_groups, recipe):
        yield "its optimizer has other groups of parameters or other options"
    parameters = [p for group in run.optimizer.param_groups for p in group["params"]]
    every = (value for each in saved.state.values() for value in each.values())
    apart = next((value for value in every if isinstance(value, OfShards)), None)
    if apart is not None:
        yield (
            f"its optimizer's state is quantised in the parts of {apart.shards} processes that "
            f"shared the model, and is exact in no others (distributed.shard={apart.shards})"
        )
        return
    strange = sorted(saved.state.keys() - set(range(len(parameters))))
    if strange:
        yield f"its optimizer has a state of parameter {strange[0]} of {len(parameters)}"
        return
    expected: dict[Any, list[Mapping[str, Any]]] = {}
    for number, values in saved.state.items():
        parameter = parameters[number]
        kind = parameter.dtype, parameter.dim()
        if kind not in expected:
            expected[kind] = [made.state[own] for made, own in _rehearsals(recipe, parameter)]
        faults = [list(_faults_of_state(number, values, e, parameter)) for e in expected[kind]]
        if all(faults):
            yield from next(iter(faults), [])


def _faults_of_state(
    number: int, values: Mapping[str, Any], wanted: Mapping[str, Any], parameter: nn.Parameter
) -> Iterator[str]:
    if values.keys() != wanted.keys():
        yield (
            f"its optimizer's state of parameter {number} has {', '.join(sorted(values))} "
            f"instead of {', '.join(sorted(wanted))}"
        )
    for name, value in values.items():
        if not _alike(value, wanted.get(name), parameter):
            yield f"its optimizer's `{name}` of parameter {number} is of another kind or shape"


def _groups_alike(
    present: Sequence[Mapping[str, Any]],
    saved: Sequence[Mapping[str, Any]],
    recipe: OptimizerRecipe,
) -> bool:
    """Whether groups are of the same parameters, with the options of a fresh one or a used one."""
    if [list(group["params"]) for group in saved] != [list(group["params"]) for group in present]:
        return False
    like = nn.Parameter(torch.zeros(()))
    used = {key for made, _ in _rehearsals(recipe, like) for key in made.param_groups[0]}
    return all(
        mine.keys() <= theirs.keys() <= mine.keys() | used
        for mine, theirs in zip(present, saved, strict=True)
    )


def _rehearsals(
    recipe: OptimizerRecipe, like: nn.Parameter
) -> Iterator[tuple[torch.optim.Optimizer, nn.Parameter]]:
    """Optimizers of one small parameter after a step: some keep less of one that is zero."""
    for value in (0.0, 1.0):
        # An optimizer of the user's own may be for parameters of a certain shape.
        with suppress(Exception):
            made = rehearsed(recipe, torch.full([2] * like.dim(), value, dtype=like.dtype))
            yield made, made.param_groups[0]["params"][0]


def _alike(value: Any, wanted: Any, parameter: nn.Parameter) -> bool:
    if not isinstance(wanted, Tensor):
        return not isinstance(value, Tensor)
    if not isinstance(value, Tensor) or value.dtype != wanted.dtype:
        return False
    whole = wanted.dim() > 0 and wanted.dim() == parameter.dim() and 1 not in wanted.shape
    return value.shape == parameter.shape if whole else value.dim() == wanted.dim()


def _differing(
    what: str, present: Mapping[str, Tensor], saved: Mapping[str, Tensor]
) -> Iterator[str]:
    for name, (mine, theirs) in differences(present, saved).items():
        yield f"its `{what}.{name}` is {theirs}, and the run's is {mine}"
