"""The end of an optimizer step: parameters, their average, and the row of figures."""

from __future__ import annotations

from collections.abc import Callable

from flowbp.training.interrupt import uninterrupted
from flowbp.training.metrics import Metrics
from flowbp.training.state import RunState


def update(run: RunState, rate: float, row: Callable[[], Metrics]) -> None:
    """Change the parameters by the gradients that they have, and forget these.

    An interrupt waits for the end.

    Args:
        run: whose step is done then.
        rate: the learning rate.
        row: makes the figures of the step once the parameters are changed.

    Example:
        See `Trainer`.
    """
    for group in run.optimizer.param_groups:
        group["lr"] = rate
    with uninterrupted():
        run.updating = True
        run.optimizer.step()
        if run.average is not None:
            run.average.update()
        run.rows.append(row())
        run.set_mark()
        run.updating = False
    run.optimizer.zero_grad(set_to_none=True)
