"""Collapse: where a run's reward has fallen from its peak by more than chance."""

from __future__ import annotations

import math
from collections.abc import Sequence

import attrs
import torch

from flowbp.evaluation.statistics import LEAST, LEVEL, sign_flip_p


@attrs.frozen
class Point:
    """Numbers of one time of a run: of each prompt, or of each step of a window."""

    step: int
    values: Sequence[float] = attrs.field(repr=False)

    @property
    def mean(self) -> float:
        """Their mean."""
        return math.fsum(self.values) / len(self.values)


@attrs.frozen
class Collapse:
    """A fall from the peak that lasts to the end.

    Args:
        peak: the step of the peak.
        since: the first step from which on the values stay below it, beyond chance.
        fall: how far below it they are in the end.
    """

    peak: int
    since: int
    fall: float


def find_collapse(
    points: Sequence[Point], *, prompts: Sequence[str] | None = None, seed: int = 0
) -> Collapse | None:
    """Find since when a run lies below its peak, if it still does at its end.

    A point lies below if its paired differences to the peak's values are negative by a sign-flip
    test. The best of many points is partly luck, so the level is divided by their number.

    Args:
        points: in order, with as many values each.
        prompts: texts of the values; differences of equal ones go together.
        seed: of the test's random signs.

    Returns:
        None where there are fewer than two points or ten values, or no fall beyond chance.

    Example:
        >>> high, low = [0.5 + 0.001 * n for n in range(20)], [0.3] * 20
        >>> find_collapse([Point(0, low), Point(25, high), Point(50, low), Point(75, low)]).since
        50
    """
    if len(points) < 2 or len(points[0].values) < LEAST:
        return None
    best = max(points, key=lambda point: point.mean)
    since, level = None, LEVEL / (len(points) - 1)
    for point in reversed(points[points.index(best) + 1 :]):
        falls = [now - then for now, then in zip(point.values, best.values, strict=True)]
        if not math.fsum(falls) < 0 or _chance(falls, prompts, level, seed) > level:
            break
        since = point.step
    if since is None:
        return None
    return Collapse(best.step, since, best.mean - points[-1].mean)


def _chance(
    falls: Sequence[float], prompts: Sequence[str] | None, level: float, seed: int
) -> float:
    generator = torch.Generator().manual_seed(seed)
    # Drawn flips give no p below one in their number.
    flips = max(9_999, round(2 / level))
    texts = None if prompts is None else [prompts]
    return sign_flip_p([falls], prompts=texts, generator=generator, flips=flips)


def windows(values: Sequence[float], size: int | None = None) -> list[Point]:
    """Training rewards by step, from 1, in windows without overlap; the last one ends the run.

    Windows of `size` steps, or of a twelfth of the values, ten at least.
    """
    size = size or window_of(len(values))
    count = len(values) // size
    first = len(values) - count * size
    ends = range(first + size, len(values) + 1, size)
    return [Point(end, values[end - size : end]) for end in ends]


def falling_reward(rewards: Sequence[float], size: int) -> Collapse | None:
    """The fall of a run's training rewards that its last two windows of `size` steps show.

    One window could lie below the peak by chance in one look of twenty, and a run looks often.
    Chance is that of prompts and noise, drawn anew in each step: a model that wanders, and
    will come back, falls too.
    """
    found = find_collapse(windows(rewards, size)) if len(rewards) >= 3 * size else None
    return None if found is None or found.since > len(rewards) - size else found


def window_of(steps: int) -> int:
    """How many steps a run of so many in all looks at together."""
    return max(LEAST, steps // 12)


def told_of_fall(rewards: Sequence[float]) -> tuple[str, ...]:
    """What a report says of a run whose training reward ended below its peak; empty otherwise."""
    found = falling_reward(rewards, window_of(len(rewards)))
    if found is None:
        return ()
    return (
        f"The training reward was highest around step {found.peak}, has been lower since step "
        f"{found.since} and ended {found.fall:.3g} below, by more than chance. Clipped samples "
        "(training.sample_clip), a lower learning rate, more samples a step or an anchor may help.",
    )
