"""A step that does not fit into memory is done again, exactly, in smaller portions."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from flowbp.adapters.checkpointing import checkpointing_of
from flowbp.adapters.compiling import is_compiled
from flowbp.training.memory import release
from flowbp.training.observers import Observer
from flowbp.training.portion_lines import tell_portions
from flowbp.training.randomness import generator_states, set_generator_states
from flowbp.training.result import StepResult
from flowbp.training.sizes import Portions
from flowbp.training.stages import ExhaustedError, StageOutOfMemoryError
from flowbp.training.state import RunState
from flowbp.training.step import TrainingStep


def in_portions(step: TrainingStep, portions: Portions) -> TrainingStep:
    """The same step in other portions; its backbone's gradient checkpointing is switched to them.

    Args:
        step: any.
        portions: to work in.

    Returns:
        The step.

    Example:
        See `Trainer`.
    """
    able = checkpointing_of(step.backbone)
    if able is not None and portions.checkpointing is not None:
        able.checkpoint_gradients(portions.checkpointing)
    return attrs.evolve(step, portions=portions)


def at_start(step: TrainingStep) -> Portions:
    """The portions of a step for which nothing is measured.

    Args:
        step: any.

    Returns:
        Those of its batching; checkpointing is on where the backbone's owner asked for it.

    Example:
        See `Trainer`.
    """
    able = checkpointing_of(step.backbone)
    on = None if able is None else able.gradient_checkpointing is True
    return attrs.evolve(step.sizes, checkpointing=on)


def persistent(run: RunState, prompts: Sequence[str], observers: Sequence[Observer]) -> StepResult:
    """Run a step until it fits: what runs out of memory is made smaller, and stays so.

    A repeated step is the same step: generators are put back to where they were, so that plan,
    noise and copies are the same, and its gradient is up to rounding. Only what the network itself
    draws, for dropout say, may change, as it is drawn portion by portion.

    Args:
        run: whose step is run; after a change it has another, and is marked as lowered.
        prompts: of the step.
        observers: are told of smaller portions, in a line what changed and where.

    Returns:
        What the step measured, the gradients in the parameters' `.grad`.

    Raises:
        ExhaustedError: a stage does not fit in its smallest portions.

    Example:
        See `Trainer`.
    """
    streams, own = run.streams.states(), generator_states(run.device)
    while True:
        try:
            return run.step(prompts, run.streams)
        except StageOutOfMemoryError as error:
            stage, count, cause = error.stage, error.count, error.cause
        # Past the handler, because the traceback keeps alive what the step had allocated.
        run.optimizer.zero_grad(set_to_none=True)
        release(run.device)
        now = run.step.portions or at_start(run.step)
        smaller = stage.lowered(now, count)
        if smaller is None:
            raise ExhaustedError(stage, count, cause)
        run.streams.set_states(streams)
        set_generator_states(own, run.device)
        run.step, run.lowered = in_portions(run.step, smaller), True
        change = smaller.changed_from(now)
        told = f"out of memory in {stage.doing}: {change} from here on; the step is repeated"
        if is_compiled(run.step.backbone.module):
            told = f"{told}, and compiled for that first, which takes a while"
        tell_portions(observers, run.done + 1, smaller, told)
