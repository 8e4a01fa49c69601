"""The evaluation on held-out prompts inside a run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Protocol, runtime_checkable

import attrs

from flowbp.evaluation.metric import Scale
from flowbp.training.early_stop import EarlyStop, HeldOutMetrics
from flowbp.training.randomness import generator_states, set_generator_states
from flowbp.training.run_state import RunState
from flowbp.validators import integer

Measure = Callable[[], Mapping[str, float | Sequence[float]]]
"""Evaluates the model as it is now: metrics by name, always of the same names, or in place of a
metric a number for every prompt, from which how far its mean is chance can be reckoned."""


@runtime_checkable
class ComparingMeasure(Protocol):
    """A measure that compares with the model before training, which is that of its first call."""

    def __call__(self) -> Mapping[str, float | Sequence[float]]:
        """Evaluate, see `Measure`."""
        ...

    def begin(self) -> None:
        """A run goes on; the model still is the one before training."""
        ...


@runtime_checkable
class ScaledMeasure(Protocol):
    """A measure that knows of which metrics less is better, or neither; of others more is."""

    def __call__(self) -> Mapping[str, float | Sequence[float]]:
        """Evaluate, see `Measure`."""
        ...

    @property
    def scales(self) -> Mapping[str, Scale]:
        """By the name of a metric."""
        ...


class EvaluationError(RuntimeError):
    """An evaluation inside a run found no metric that can be used; the message says which."""


@attrs.frozen(kw_only=True)
class HeldOutEvaluation:
    """When a run is evaluated on prompts that it does not train on, and what comes of it.

    The model is evaluated under the averaged weights if the run averages: those that a checkpoint
    holds. Torch's own generators are put back afterwards, so that training is the same bit for bit
    with evaluations and without.

    Args:
        measure: evaluates the model.
        every: optimizer steps from one evaluation to the next. There is one before training and
            one after the last step besides.
        stop: ends the run; None never does.

    Example:
        >>> evaluation = HeldOutEvaluation(measure=lambda: {"reward": 0.5}, every=4)
        >>> [step for step in range(11) if evaluation.due(step, 10)]
        [0, 4, 8, 10]
    """

    measure: Measure
    every: int = attrs.field(validator=integer(1))
    stop: EarlyStop | None = None

    def due(self, step: int, total: int) -> bool:
        """Whether the model is evaluated after `step` of `total` steps."""
        return step % self.every == 0 or step == total

    def missing(self, run: RunState, total: int) -> bool:
        """Whether the evaluation of the run's last step is due and not there yet."""
        there = bool(run.evaluations) and run.evaluations[-1].step == run.done
        return self.due(run.done, total) and not there

    def ends(self, rows: Sequence[HeldOutMetrics]) -> bool:
        """Whether the run ends after these evaluations."""
        return self.stop is not None and self.stop.ends(rows)

    def take_over(self, run: RunState, total: int) -> None:
        """Bring the evaluations of an earlier process to what a run of `total` steps has.

        One after the last step of a shorter run is left out, as a run that never stopped there
        would not have it.
        """
        self._refuse_neither()
        run.evaluations = [row for row in run.evaluations if self.due(row.step, total)]
        self._mark_best(run)

    def begin(self) -> None:
        """Have the measure look at the model before training, if it compares with that.

        A run that goes on calls it before the checkpoint is loaded, so that metrics are those of a
        run that never stopped.
        """
        if isinstance(self.measure, ComparingMeasure):
            self.measure.begin()

    def evaluate(self, run: RunState) -> None:
        """Evaluate, and add the metrics to the run's; refuse those that cannot be used."""
        states = generator_states(run.device)
        try:
            with nullcontext() if run.average is None else run.average.swapped():
                found = HeldOutMetrics.of(run.done, self.measure(), self._signs)
        except ValueError as error:
            raise EvaluationError(_stopped(run.done, str(error))) from error
        finally:
            set_generator_states(states, run.device)
        self._check(run.done, found.figures)
        run.evaluations.append(found)
        self._mark_best(run)

    def _check(self, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            if not math.isfinite(value):
                raise EvaluationError(_stopped(step, f"`{name}` must be finite, got {value}"))
        if self.stop is not None and self.stop.metric not in metrics:
            raise EvaluationError(
                f"`early_stop.metric` is {self.stop.metric!r}, and the evaluation has "
                f"{', '.join(metrics)}; name one of these"
            )
        self._refuse_neither()

    @property
    def _signs(self) -> Mapping[str, int]:
        scales = self.measure.scales if isinstance(self.measure, ScaledMeasure) else {}
        return {name: scale.sign for name, scale in scales.items()}

    def _refuse_neither(self) -> None:
        if self.stop is not None and self._signs.get(self.stop.metric) == 0:
            raise EvaluationError(
                f"`early_stop.metric` is {self.stop.metric!r}, of which neither more nor less is "
                "better, so that nothing is its best; name another metric"
            )

    def _mark_best(self, run: RunState) -> None:
        best = None if self.stop is None else self.stop.best(run.evaluations)
        run.best = None if best is None else best.step


def _stopped(step: int, why: str) -> str:
    return f"the evaluation after step {step} stopped: {why}"
