"""Which checkpoints need not stay."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flowbp.training.inspection import Saved
from flowbp.training.metrics import Metrics

BEST: Mapping[str, Callable[..., Any]] = {"reward": max, "loss": min}
"""The figures that a checkpoint can be best in, and which end of them is."""


def superseded(
    checkpoints: Sequence[Saved],
    rows: Sequence[Metrics],
    keep: int | None,
    *,
    best: str | None,
    window: int | None,
    held_out: int | None = None,
) -> tuple[Saved, ...]:
    """Tell which checkpoints can go: not `final`, not the newest, not the best.

    Args:
        checkpoints: sound ones of one run, the newest last.
        rows: figures of all its steps, from the first.
        keep: how many of the newest stay; all if None.
        best: a figure of `BEST`, whose best mean over the steps before the checkpoint earns it a
            place; of equals the earliest. One batch alone says little, so the mean is taken.
        window: over how many steps; all if None.
        held_out: the step whose evaluation on held-out prompts was best; its checkpoint stays. One
            that was saved only because it once was so can go. None if there is no such best.

    Returns:
        Those that can be removed.

    Example:
        >>> from pathlib import Path
        >>> steps = [Saved(Path(f"step-{step:06}"), step, None) for step in (1, 2, 3, 4)]
        >>> [saved.step for saved in superseded(steps, [], 2, best=None, window=1)]
        [1, 2]
    """
    candidates = [saved for saved in checkpoints if saved.place.name != "final"]
    regular = [saved for saved in candidates if held_out is None or not _once_best(saved, window)]
    staying = regular if keep is None else regular[-keep:]
    staying = [*staying, *checkpoints[-1:], *(c for c in candidates if c.step == held_out)]
    # Before the first step there are no figures to be best in.
    if best is not None and candidates and rows:
        staying = [*staying, BEST[best](candidates, key=lambda c: _mean(rows, best, c, window))]
    return tuple(saved for saved in candidates if saved not in staying)


def _once_best(saved: Saved, every: int | None) -> bool:
    return saved.place.name.startswith("best-") and not (every and saved.step % every == 0)


def _mean(rows: Sequence[Metrics], figure: str, saved: Saved, window: int | None) -> float:
    done = int(saved.step)
    start = 0 if window is None else max(0, done - window)
    # A checkpoint of step 0 has no figures; the run's first is the nearest there is.
    values: list[float] = [getattr(row, figure) for row in rows[start:done] or rows[:1]]
    return sum(values) / len(values)
