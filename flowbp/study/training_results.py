"""Training runs read from their cells: curves, gains and collapses, by rate."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from flowbp.evaluation import spread
from flowbp.evaluation.collapse import Collapse, Point, find_collapse, windows
from flowbp.study.cells import FAILURE
from flowbp.study.comparison import halves
from flowbp.study.settings import Study

REWARD = "reward"

Curves = Mapping[str, tuple[float, ...]]
"""By metric, a mean for each evaluation."""


@attrs.frozen
class Sides:
    """The held-out prompts, and the places of those that choose rates and of those that judge."""

    texts: tuple[str, ...]
    choosing: tuple[int, ...]
    judging: tuple[int, ...]

    @classmethod
    def of(cls, study: Study) -> Sides:
        """Those of a study with training."""
        training, evaluation = study.settings.training, study.run.evaluation
        assert training is not None and evaluation is not None
        # As an evaluation inside a run takes them.
        prompts = spread(evaluation.prompts.prompts(), evaluation.count)
        sides = halves([(each.text, each.kind) for each in prompts], training.selection)
        return cls(tuple(each.text for each in prompts), *sides)

    @property
    def judging_texts(self) -> list[str]:
        """The texts that judge."""
        return [self.texts[place] for place in self.judging]


@attrs.frozen(kw_only=True)
class RunResult:
    """A training run: its evaluations on both sides, and where it collapsed."""

    seed: int
    steps: tuple[int, ...]
    choosing: Curves
    judging: Curves
    # From the first evaluation to the last, of each prompt that judges.
    gains: Curves = attrs.field(repr=False)
    held_out: Collapse | None
    training: Collapse | None
    failure: str | None

    @property
    def collapsed(self) -> int | None:
        """The first step of a collapse, in training or on held-out prompts."""
        steps = [each.since for each in (self.held_out, self.training) if each is not None]
        return min(steps, default=None)


@attrs.frozen(kw_only=True)
class RateResult:
    """The runs of a method at one rate."""

    rate: float
    runs: tuple[RunResult, ...]

    @property
    def failed(self) -> bool:
        """Whether a run diverged."""
        return any(run.failure is not None for run in self.runs)

    def final(self, metric: str, *, judging: bool) -> float:
        """The mean of a metric at the end of the runs."""
        ends = [(run.judging if judging else run.choosing)[metric][-1] for run in self.runs]
        return math.fsum(ends) / len(ends)


def run_result(tree: Mapping[str, Any], seed: int, sides: Sides) -> RunResult:
    """What a cell found, divided by prompts."""
    rows = tree["evaluations"]
    # Where neither more nor less is better, or less is, a metric has no say in what is best.
    names = [name for name in rows[0]["each"] if name not in tree["signs"]]

    def curves(places: Sequence[int]) -> Curves:
        return {name: tuple(_mean(row["each"][name], places) for row in rows) for name in names}

    points = [Point(row["step"], row["each"][REWARD]) for row in rows]
    first, last = rows[0]["each"], rows[-1]["each"]
    return RunResult(
        seed=seed,
        steps=tuple(row["step"] for row in rows),
        choosing=curves(sides.choosing),
        judging=curves(sides.judging),
        gains={
            name: tuple(last[name][p] - first[name][p] for p in sides.judging) for name in names
        },
        held_out=find_collapse(points, prompts=sides.texts),
        training=find_collapse(windows(tree["rewards"])),
        failure=tree.get(FAILURE),
    )


def _mean(values: Sequence[float], places: Sequence[int]) -> float:
    # A metric may say nothing of a prompt.
    known = [values[place] for place in places if not math.isnan(values[place])]
    return math.fsum(known) / len(known) if known else math.nan


def best_rate(rates: Sequence[RateResult]) -> int | None:
    """The place of the best rate, by the reward on prompts that choose; None if all diverged."""
    sound = [place for place, rate in enumerate(rates) if not rate.failed]
    return max(sound, key=lambda place: rates[place].final(REWARD, judging=False), default=None)
