"""How a run that its held-out figure ended is told of, and where the best of it is."""

from __future__ import annotations

from flowbp.container import RunContainer
from flowbp.evaluation import counted
from flowbp.training import HeldOutFigures


def told_ending(container: RunContainer, done: int) -> str:
    """Say that a run ended early, why, and where the best of it is.

    Args:
        container: of the run, which is over.
        done: optimizer steps that it did.

    Returns:
        A sentence; nothing if the run did all of its steps.

    Example:
        See `flowbp.run.execution.execute`.
    """
    settings = container.settings()
    total, folder = settings.training.steps, settings.run.folder / "checkpoints"
    if settings.early_stop is None or done >= total:
        return ""
    rule, best = settings.early_stop.rule, _best(container)
    if best is None:
        return ""
    name = best_checkpoint(container, done) or "final"
    place = f"in {folder / name}" if best.step else "the model before training"
    return (
        f"ended early, after step {done} of {total}: {rule.metric} has not risen by more than "
        f"{rule.min_delta:g} for {counted(rule.patience, 'evaluation')}; the best, "
        f"{best.figures[rule.metric]:.4g}, is that of step {best.step}, {place}"
    )


def best_checkpoint(container: RunContainer, done: int) -> str | None:
    """Where the best of a run with an early stop is, unless it is what its last step left.

    Args:
        container: of the run, which is over.
        done: optimizer steps that it did.

    Returns:
        The name of a checkpoint; None where that is `final`, or nothing that was trained.

    Example:
        See `flowbp.run.execution.execute`.
    """
    best = _best(container)
    return None if best is None or best.step in (0, done) else f"best-{best.step:06}"


def told_best(container: RunContainer, done: int) -> dict[str, str]:
    """The best checkpoint among what a run has written.

    Args:
        container: of the run, which is over.
        done: optimizer steps that it did.

    Returns:
        By its path in the run's folder what it is; nothing where `best_checkpoint` has none.

    Example:
        See `flowbp.run.execution.execute`.
    """
    name, best = best_checkpoint(container, done), _best(container)
    if name is None or best is None:
        return {}
    metric = container.settings().early_stop.metric
    what = f"the model at its best {metric}, {best.figures[metric]:.4g} after step {best.step}"
    return {f"checkpoints/{name}": what}


def _best(container: RunContainer) -> HeldOutFigures | None:
    stop = container.settings().early_stop
    best: HeldOutFigures | None = stop and stop.rule.best(container.history().held_out)
    return best
