"""The end of an optimizer step: parameters, their average, and the row of figures."""

from __future__ import annotations

from collections.abc import Callable

from flowbp.training.interrupt import uninterrupted
from flowbp.training.metrics import Metrics
from flowbp.training.stages import UPDATE, running
from flowbp.training.state import RunState


def update(run: RunState, rate: float, row: Callable[[], Metrics]) -> None:
    """Change the parameters by the gradients that they have, and forget these.

    An interrupt waits for the end.

    Args:
        run: whose step is done then.
        rate: the learning rate.
        row: makes the figures of the step once the parameters are changed.

    Raises:
        ExhaustedError: the optimizer's state, or the average's work, does not fit into memory.

    Example:
        See `Trainer`.
    """
    for group in run.optimizer.param_groups:
        group["lr"] = rate
    with uninterrupted():
        run.updating = True
        with running(UPDATE, run.step.batching.total):
            run.optimizer.step()
            if run.average is not None:
                run.average.update()
        run.rows.append(row())
        run.set_mark()
        run.updating = False
    run.optimizer.zero_grad(set_to_none=True)
