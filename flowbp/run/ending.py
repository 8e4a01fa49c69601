"""How a run that its held-out figure ended is told of."""

from __future__ import annotations

from flowbp.container import RunContainer


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
    rule = settings.early_stop.rule
    best = rule.best(container.history().held_out)
    if best is None:
        return ""
    name = "final" if best.step == done else f"best-{best.step:06}"
    place = f"in {folder / name}" if best.step else "the model before training"
    return (
        f"ended early, after step {done} of {total}: {rule.metric} has not risen by more than "
        f"{rule.min_delta:g} for {rule.patience} evaluations; the best, "
        f"{best.figures[rule.metric]:.4g}, is that of step {best.step}, {place}"
    )
