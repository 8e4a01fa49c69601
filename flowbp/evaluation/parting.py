"""Where the trained-on reward and a held-out figure part: the sign of reward hacking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

SHARE = 0.25
"""How much of its range a held-out figure must have lost."""

IN_A_ROW = 2
"""In how many evaluations after each other."""


@attrs.frozen
class Parting:
    """A held-out figure that fell while the reward went on rising.

    Args:
        figure: its name.
        best: the step at which it was best.
        since: the first step of those in a row at which the two are apart.

    Example:
        >>> Parting("accuracy", best=50, since=100).since
        100
    """

    figure: str
    best: int
    since: int


def parting(rows: Sequence[Mapping[str, Any]], figure: str, trained: str) -> Parting | None:
    """Find where a figure and the reward part, if they do and have not met again.

    At an evaluation the two are apart if the figure is below its best so far by more than `SHARE`
    of the range that it has had so far, while the reward is above what it was at that best. They
    part if they are apart in the last `IN_A_ROW` evaluations or more. It is a hint and no test:
    the figures of few prompts are noisy.

    Args:
        rows: evaluations with `step` and figures, in order; those that lack one are left out.
        figure: the held-out one.
        trained: the reward.

    Returns:
        Where; None if they do not part.

    Example:
        >>> rows = [{"step": 25 * i, "reward": i, "accuracy": a}
        ...         for i, a in enumerate((0.5, 0.7, 0.8, 0.6, 0.5))]
        >>> parting(rows, "accuracy", "reward")
        Parting(figure='accuracy', best=50, since=75)
    """
    points = [row for row in rows if row.get(figure) is not None and row.get(trained) is not None]
    apart: list[Mapping[str, Any]] = []
    for i, row in enumerate(points):
        best = max(points[: i + 1], key=lambda each: each[figure])
        spread = best[figure] - min(each[figure] for each in points[: i + 1])
        fallen = best[figure] - row[figure] > SHARE * spread
        apart = [*apart, row] if fallen and row[trained] > best[trained] else []
    if len(apart) < IN_A_ROW:
        return None
    best = max(points, key=lambda each: each[figure])
    return Parting(figure, best["step"], apart[0]["step"])
