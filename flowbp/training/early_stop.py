"""When a run ends because its held-out metric no longer improves."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs

from flowbp.limits import STEPS
from flowbp.validators import integer, real


def _named(_: object, attribute: attrs.Attribute[Any], value: str) -> None:
    if not value.strip():
        raise ValueError(
            f"`{attribute.name}` must name a metric of the evaluation, such as reward, accuracy or "
            f"the label of a metric, got {value!r}"
        )


def _tuples(values: Mapping[str, Sequence[float]]) -> dict[str, tuple[float, ...]]:
    return {name: tuple(each) for name, each in values.items()}


def _other_than_more(signs: Mapping[str, int]) -> dict[str, int]:
    return {name: sign for name, sign in signs.items() if sign != 1}


@attrs.frozen(kw_only=True)
class HeldOutMetrics:
    """What an evaluation inside a run found."""

    step: int
    # Means over the held-out prompts, by name.
    figures: Mapping[str, float]
    # The numbers behind a mean, one for every prompt, NaN where it says nothing of one.
    each: Mapping[str, tuple[float, ...]] = attrs.field(factory=dict, converter=_tuples, repr=False)
    # Where not more is better: -1 where less is, 0 where neither is.
    signs: Mapping[str, int] = attrs.field(factory=dict, converter=_other_than_more)

    @classmethod
    def of(
        cls,
        step: int,
        found: Mapping[str, float | Sequence[float]],
        signs: Mapping[str, int] | None = None,
    ) -> HeldOutMetrics:
        """What was found after a step: by name a mean, or a number for every prompt."""
        each = {name: tuple(value) for name, value in found.items() if isinstance(value, Sequence)}
        figures = {
            name: _mean(value) if isinstance(value, Sequence) else value
            for name, value in found.items()
        }
        own = {name: sign for name, sign in (signs or {}).items() if name in figures}
        return cls(step=step, figures=figures, each=each, signs=own)


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return math.fsum(known) / len(known) if known else math.nan


@attrs.frozen(kw_only=True)
class EarlyStop:
    """Ends a run whose held-out metric has not risen for a while.

    Of a metric of which less is better, as the evaluations say, a fall is what is called a rise
    here. An evaluation is a rise if its metric is above that of the last rise by more than
    `min_delta`; the first one is. The run ends with the evaluation that is the `patience`-th in a
    row without one. The decision is a function of the metrics alone, so that a run that was
    interrupted ends at the step at which it would have ended.

    Args:
        metric: the metric.
        patience: evaluations without a rise.
        min_delta: how much more than the last rise is one.

    Raises:
        ValueError: a number is out of range, or `metric` is blank.

    Example:
        >>> rows = [HeldOutMetrics(step=s, figures={"accuracy": a})
        ...         for s, a in ((0, 0.5), (25, 0.75), (50, 0.75), (75, 0.7))]
        >>> stop = EarlyStop(metric="accuracy", patience=2)
        >>> [stop.ends(rows[:n]) for n in range(5)], stop.best(rows).step
        ([False, False, False, False, True], 25)
    """

    metric: str = attrs.field(validator=_named)
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
        measured = self._measured(rows)
        return max(measured, key=self._worth(rows)) if measured else None

    def less_is_better(self, rows: Sequence[HeldOutMetrics]) -> bool:
        """Whether the metric is one of which less is better, by the last that has it."""
        measured = self._measured(rows)
        return bool(measured) and measured[-1].signs.get(self.metric) == -1

    def _worth(self, rows: Sequence[HeldOutMetrics]) -> Callable[[HeldOutMetrics], float]:
        sign = -1 if self.less_is_better(rows) else 1
        return lambda row: sign * row.figures[self.metric]

    def _measured(self, rows: Sequence[HeldOutMetrics]) -> list[HeldOutMetrics]:
        # Before a run went on with another metric its evaluations may lack it.
        return [row for row in rows if self.metric in row.figures]
