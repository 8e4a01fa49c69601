"""The evaluation on held-out prompts inside a run, and the rule by which it ends the run."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import attrs

from flowbp.evaluation.held_out_evaluation import HeldOutMeasure
from flowbp.evaluation.metric import Scale
from flowbp.evaluation.reward_hacking import divergences, in_words
from flowbp.limits import STEPS
from flowbp.training.metrics import HeldOutMetrics
from flowbp.training.randomness import generator_states, set_generator_states
from flowbp.training.run_state import RunState
from flowbp.validators import integer, real

T = TypeVar("T")

Measure = Callable[[], Mapping[str, float | Sequence[float]]]
"""Evaluates the model as it is now: metrics by name, always of the same names, or in place of a
metric a number for every prompt, from which how far its mean is chance can be reckoned.

An attribute `scales` may declare by the name of a metric that less is better, or neither; of others
more is. A method `begin` is called where a run goes on while the model still is the one before
training: a measure may compare with that.

Where several processes train together, the first one calls a measure. One with a method `take_part`
works on all of them: the others call that instead, and `begin` as well."""


class EvaluationError(RuntimeError):
    """An evaluation inside a run found no metric that can be used; the message says which."""


def _named(_: object, attribute: attrs.Attribute[Any], value: str) -> None:
    if not value.strip():
        raise ValueError(
            f"`{attribute.name}` must name a metric of the evaluation, such as reward, accuracy or "
            f"the label of a metric, got {value!r}"
        )


@attrs.frozen(kw_only=True)
class EarlyStop:
    """Ends a run whose held-out metric has not risen for a while.

    Of a metric of which less is better, as the evaluations say, a fall is what is called a rise
    here. An evaluation is a rise if its metric is above that of the last rise by more than
    `min_delta`; the first one is. The run ends with the evaluation that is the `patience`-th in a
    row without one. The decision is a function of the metrics alone, so that a run that was
    interrupted ends at the step at which it would have ended.

    Args:
        metric: `reward`, `accuracy` (the judge's) or a column of one of `evaluation.metrics`, for a
            reward its label.
        every: optimizer steps from one evaluation to the next; that of the evaluation if null.
        patience: evaluations in a row without a rise after which the run ends.
        min_delta: how much above the last rise is one.
    """

    metric: str = attrs.field(validator=_named)
    every: int | None = attrs.field(
        default=None, validator=attrs.validators.optional(integer(1, STEPS))
    )
    patience: int = attrs.field(default=3, validator=integer(1, STEPS))
    min_delta: float = attrs.field(default=0.0, validator=real(0))

    def ends(self, rows: Sequence[HeldOutMetrics]) -> bool:
        """Whether the run ends after these evaluations, the first of the run first."""
        return self.waited(rows) >= self.patience

    def waited(self, rows: Sequence[HeldOutMetrics]) -> int:
        """How many of these evaluations, the last ones, have been without a rise."""
        last, waited = None, 0
        for value in map(self._worth(rows), self._measured(rows)):
            if last is None or value > last + self.min_delta:
                last, waited = value, 0
            else:
                waited += 1
        return waited

    def best(self, rows: Sequence[HeldOutMetrics]) -> HeldOutMetrics | None:
        """The evaluation with the best metric, of equals the earliest; None without any."""
        return max(self._measured(rows), key=self._worth(rows), default=None)

    def less_is_better(self, rows: Sequence[HeldOutMetrics]) -> bool:
        """Whether the metric is one of which less is better, by the last that has it."""
        measured = self._measured(rows)
        return bool(measured) and measured[-1].signs.get(self.metric) == -1

    def _worth(self, rows: Sequence[HeldOutMetrics]) -> Callable[[HeldOutMetrics], float]:
        sign = -1 if self.less_is_better(rows) else 1
        return lambda row: sign * row.means[self.metric]

    def _measured(self, rows: Sequence[HeldOutMetrics]) -> list[HeldOutMetrics]:
        # Before a run went on with another metric its evaluations may lack it.
        return [row for row in rows if self.metric in row.means]


@attrs.frozen(kw_only=True)
class HeldOutEvaluation:
    """Evaluates a run every so many steps, before training and after the last, and may end it.

    The model is evaluated under the averaged weights if the run averages: those that a checkpoint
    holds. Torch's own generators are put back afterwards, so that training is the same bit for bit
    with evaluations and without.
    """

    measure: Measure
    every: int = attrs.field(validator=integer(1))
    stop: EarlyStop | None = None
    # What was warned of, by metric and the step at which it was best.
    _warned: set[tuple[str, int]] = attrs.field(factory=set, init=False, repr=False, eq=False)

    def __attrs_post_init__(self) -> None:
        """Refuse a rule for evaluations that come at other steps."""
        if self.stop is not None and self.stop.every not in (None, self.every):
            raise ValueError(
                f"`stop.every` must be `every`, which is {self.every}, or None, got "
                f"{self.stop.every}"
            )

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

    def begin(self, *, first: bool = True) -> None:
        """Have the measure look at the model before training, if it compares with that.

        A run that goes on calls it before the checkpoint is loaded, so that metrics are those of a
        run that never stopped.
        """
        begin = getattr(self.measure, "begin", None)
        if begin is not None and (first or hasattr(self.measure, "take_part")):
            begin()

    def take_part(self, run: RunState) -> None:
        """Do what falls to another process than the first, which evaluates."""
        act = getattr(self.measure, "take_part", None)
        if act is not None:
            self._measured(run, act)

    def evaluate(self, run: RunState) -> None:
        """Evaluate, and add the metrics to the run's; refuse those that cannot be used."""
        found = self._measured(
            run, lambda: HeldOutMetrics.of(run.done, self.measure(), self._signs)
        )
        for name, value in found.means.items():
            if not math.isfinite(value):
                raise EvaluationError(_stopped(run.done, f"`{name}` must be finite, got {value}"))
        if self.stop is not None and self.stop.metric not in found.means:
            raise EvaluationError(
                f"`early_stop.metric` is {self.stop.metric!r}, and the evaluation has "
                f"{', '.join(found.means)}; name one of these"
            )
        self._refuse_neither()
        run.evaluations.append(found)
        self._mark_best(run)
        self._warn_of_reward_hacking(run.evaluations)

    @property
    def prompts(self) -> Sequence[str] | None:
        """The texts that the measure has a number for each; None where another does not say."""
        if not isinstance(self.measure, HeldOutMeasure):
            return None
        return [each.text for each in self.measure.prompts]

    def _warn_of_reward_hacking(self, rows: Sequence[HeldOutMetrics]) -> None:
        """Warn once of each divergence, when two evaluations in a row have shown it."""
        means, signs = [{"step": row.step, **row.means} for row in rows], rows[-1].signs
        each = [row.each for row in rows]
        for apart in divergences(means, each, self.prompts, signs, look_back=2):
            found = (apart.metric, apart.best)
            # Looked for after each evaluation, one alone is too often chance.
            if apart.since == rows[-1].step or found in self._warned:
                continue
            self._warned.add(found)
            warnings.warn(
                f"{in_words(apart, signs)} Take an earlier checkpoint, a third of the "
                "learning rate, fewer steps, or an anchor, or a stronger one; early_stop "
                f"with the metric {apart.metric} keeps the checkpoint that is best by it",
                RewardHackingWarning,
                stacklevel=2,
            )

    def _measured(self, run: RunState, act: Callable[[], T]) -> T:
        states = generator_states(run.device)
        try:
            with run.averaged():
                return act()
        except ValueError as error:
            raise EvaluationError(_stopped(run.done, str(error))) from error
        finally:
            set_generator_states(states, run.device)

    @property
    def _signs(self) -> Mapping[str, int]:
        scales: Mapping[str, Scale] = getattr(self.measure, "scales", {})
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


class RewardHackingWarning(UserWarning):
    """The held-out reward rises while another held-out metric gets worse, by more than chance."""


def _stopped(step: int, why: str) -> str:
    return f"the evaluation after step {step} stopped: {why}"
