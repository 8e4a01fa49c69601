"""Held-out figures against the reward that is trained on, over a run."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from flowbp.digits import written
from flowbp.evaluation.curves import Chart, Curve, curve, draw

Rows = Sequence[Mapping[str, Any]]


def held_out_charts(
    held_out: Rows, metrics: Rows = (), *, trained: str = "reward"
) -> tuple[Chart, ...]:
    """The reward on training and held-out prompts, and every held-out figure against the reward.

    Figures of different units are drawn each over its own range, 0 its lowest value and 1 its
    highest, as only where they rise and fall together matters.

    Args:
        held_out: evaluations inside the run, with `step` and figures.
        metrics: rows of the run's steps with `step` and the reward.
        trained: the name of the reward in both.

    Returns:
        The charts; none for fewer than two evaluations.

    Example:
        >>> rows = [{"step": s, "reward": s / 50, "accuracy": 0.5 + s} for s in (0, 25, 50)]
        >>> [chart.title for chart in held_out_charts(rows)]
        ['Reward on held-out prompts', 'Accuracy against reward']
    """
    if len(held_out) < 2:
        return ()
    charts = []
    reward = curve(held_out, trained)
    if reward.points:
        between = _between(metrics, [step for step, _ in reward.points], trained)
        own = attrs.evolve(reward, name="held-out prompts")
        shown = [own, between] if between.points else [own]
        charts.append(draw(f"{_words(trained)} on held-out prompts", shown))
    for name in figures_besides(held_out, trained):
        figure = curve(held_out, name)
        if reward.points and len(figure.points) > 1:
            chart = draw(f"{_words(name)} against {trained}", [_ranged(figure), _ranged(reward)])
            note = f"Each over its own range. {_ends(figure)}; {_ends(reward)}."
            charts.append(attrs.evolve(chart, note=note))
    return tuple(charts)


def figures_besides(held_out: Rows, trained: str) -> tuple[str, ...]:
    """The held-out figures that are neither the reward nor parts of it.

    Args:
        held_out: evaluations inside the run.
        trained: the name of the reward.

    Returns:
        Names, in order of first appearance.

    Example:
        >>> figures_besides([{"step": 0, "reward": 1, "parts.a.raw": 1, "accuracy": 0}], "reward")
        ('accuracy',)
    """
    names = dict.fromkeys(name for row in held_out for name in row)
    return tuple(n for n in names if n not in ("step", trained) and not n.startswith("parts."))


def _between(metrics: Rows, steps: Sequence[float], key: str) -> Curve:
    """The mean over the training steps since the evaluation before, at each evaluation."""
    points = []
    for before, step in itertools.pairwise(steps):
        values = [v for s, v in curve(metrics, key).points if before < s <= step]
        values = [value for value in values if math.isfinite(value)]
        if values:
            points.append((step, math.fsum(values) / len(values)))
    return Curve("training prompts", tuple(points))


def _ranged(values: Curve) -> Curve:
    numbers = [value for _, value in values.points]
    low, spread = min(numbers), (max(numbers) - min(numbers)) or 1.0
    return Curve(
        values.name, tuple((step, (value - low) / spread) for step, value in values.points)
    )


def _ends(values: Curve) -> str:
    return f"{values.name} {written(values.points[0][1])} → {written(values.points[-1][1])}"


def _words(name: str) -> str:
    return name[:1].upper() + name[1:]
