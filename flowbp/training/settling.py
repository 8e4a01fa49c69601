"""The portions that a run begins with, before its first step."""

from __future__ import annotations

from collections.abc import Sequence

from flowbp.adapters.checkpointing import checkpointing_of
from flowbp.training.backoff import in_portions
from flowbp.training.feed import PromptFeed
from flowbp.training.fitting import fitted
from flowbp.training.memory import Memory
from flowbp.training.observers import Observer
from flowbp.training.optimization import OptimizerRecipe, state_bytes
from flowbp.training.portion_lines import tell_portions
from flowbp.training.prompts import PromptSource
from flowbp.training.randomness import Streams
from flowbp.training.state import RunState


def settle(
    run: RunState,
    prompts: PromptSource,
    optimizer: OptimizerRecipe,
    memory: Memory | None,
    *,
    seed: int,
    observers: Sequence[Observer],
) -> None:
    """Give a run the portions that it begins with.

    Args:
        run: at its start, or where a checkpoint was saved. Portions that were lowered stay.
        prompts: the training source.
        optimizer: that was built for the run.
        memory: that the portions are fitted into; None fits nothing.
        seed: of the run.
        observers: are told of what was chosen.

    Example:
        See `Trainer`.
    """
    if run.lowered:
        return
    if memory is None:
        able = checkpointing_of(run.step.backbone)
        if able is not None:
            # A run before this one may have switched it.
            able.checkpoint_gradients(able.gradient_checkpointing is True)
        return
    # The run's own first prompts, from a stream apart: they are encoded already.
    first = PromptFeed(prompts, Streams.of(seed).prompts).take(min(2, run.step.batching.total))
    parameters = run.parameters.values()
    owed = 0 if run.optimizer.state else state_bytes(optimizer, parameters)
    portions, told = fitted(run.step, first, memory, owed=owed)
    run.step = in_portions(run.step, portions)
    if told:
        tell_portions(observers, run.done + 1, portions, told)
