"""How a run that its held-out figure ended is told of, and which model stands for it."""

from __future__ import annotations

from pathlib import Path

import attrs

from flowbp.container import RunContainer
from flowbp.digits import written
from flowbp.evaluation import counted
from flowbp.training import HeldOutFigures, load_trained


@attrs.frozen(kw_only=True)
class Ending:
    """The end of a run before its last step.

    Args:
        done: optimizer steps that it did.
        best: the step at which the figure was best.
        place: the checkpoint of that step; None of the model before training.
        told: why it ended and where the best is, in words.

    Example:
        >>> Ending(done=4, best=0, place=None, told="ended early").judged
        4
    """

    done: int
    best: int
    place: Path | None
    told: str

    @property
    def judged(self) -> int:
        """The step whose model the results are of: the best, or the last if the best is none."""
        return self.done if self.place is None else self.best

    @property
    def note(self) -> str:
        """What a reader of the results must know."""
        if self.place is None:
            return f"The results are of the last model. The run {self.told}."
        return (
            f"The results are of the best model, that of step {self.best}. It was chosen by "
            "held-out prompts that are judged here again, so that its figures flatter it. The run "
            f"{self.told}."
        )


def ending(container: RunContainer, done: int) -> Ending | None:
    """Whether a run ended early, why, and where the best of it is.

    Args:
        container: of the run, which is over.
        done: optimizer steps that it did.

    Returns:
        The end; None if the run did all of its steps.

    Example:
        See `flowbp.run.execution.execute`.
    """
    settings = container.settings()
    total, folder = settings.training.steps, settings.run.folder / "checkpoints"
    if settings.early_stop is None or done >= total:
        return None
    rule, best = settings.early_stop.rule, _best(container)
    changed = "fallen" if rule.less_is_better(container.history().held_out) else "risen"
    if best is None:
        return None
    place = folder / (best_checkpoint(container, done) or "final") if best.step else None
    return Ending(
        done=done,
        best=best.step,
        place=place,
        told=f"ended early, after step {done} of {total}: {rule.metric} has not {changed} by more "
        f"than {rule.min_delta:g} for {counted(rule.patience, 'evaluation')}; the best, "
        f"{written(best.figures[rule.metric], 4)}, is that of step {best.step}, "
        f"{'the model before training' if place is None else f'in {place}'}",
    )


def take_best(container: RunContainer, end: Ending | None) -> None:
    """Have the backbone be the best model of a run that ended early, if that is not the last.

    Args:
        container: of the run, which is over.
        end: how it ended.

    Raises:
        CheckpointError: the best checkpoint cannot be read.

    Example:
        See `flowbp.run.execution.execute`.
    """
    if end is not None and end.place is not None and end.best != end.done:
        load_trained(container.tuned().trainable(), end.place)


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
    if best is None or best.step in (0, done):
        return None
    name: str = container.checkpoints().of_step(best.step)
    return name


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
    figure = written(best.figures[metric], 4)
    what = f"the model at its best {metric}, {figure} after step {best.step}"
    return {f"checkpoints/{name}": what}


def _best(container: RunContainer) -> HeldOutFigures | None:
    stop = container.settings().early_stop
    best: HeldOutFigures | None = stop and stop.rule.best(container.history().held_out)
    return best
