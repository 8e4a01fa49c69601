"""When a run ends because what it is held against does not rise any more."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs

from flowbp.core._validators import integer, real
from flowbp.limits import STEPS


def _named(_: object, attribute: attrs.Attribute[Any], value: str) -> None:
    if not value.strip():
        raise ValueError(
            f"`{attribute.name}` must name a figure of the evaluation, such as reward, accuracy or "
            f"the label of a metric, got {value!r}"
        )


def _tuples(values: Mapping[str, Sequence[float]]) -> dict[str, tuple[float, ...]]:
    return {name: tuple(each) for name, each in values.items()}


def _other_than_more(signs: Mapping[str, int]) -> dict[str, int]:
    return {name: sign for name, sign in signs.items() if sign != 1}


@attrs.frozen(kw_only=True)
class HeldOutFigures:
    """What an evaluation inside a run found.

    Args:
        step: optimizer steps that were done.
        figures: means over the held-out prompts, by name.
        each: the numbers behind a mean, one for every prompt, NaN where it says nothing of one;
            of a figure that was measured as a whole there are none.
        signs: of figures of which not more is better: -1 where less is, 0 where neither is.

    Example:
        >>> HeldOutFigures(step=25, figures={"reward": 0.3, "accuracy": 0.75}).step
        25
    """

    step: int
    figures: Mapping[str, float]
    each: Mapping[str, tuple[float, ...]] = attrs.field(factory=dict, converter=_tuples, repr=False)
    signs: Mapping[str, int] = attrs.field(factory=dict, converter=_other_than_more)

    @classmethod
    def of(
        cls,
        step: int,
        found: Mapping[str, float | Sequence[float]],
        signs: Mapping[str, int] | None = None,
    ) -> HeldOutFigures:
        """What was found after a step: figures, or a number for every prompt.

        Args:
            step: optimizer steps that were done.
            found: by name.
            signs: by name 1, -1 or 0, see `flowbp.evaluation.Scale`; None is 1 for all.

        Returns:
            The figures, means over the numbers that are not NaN.

        Example:
            >>> HeldOutFigures.of(25, {"reward": (0.25, 0.75), "accuracy": 0.5}).figures
            {'reward': 0.5, 'accuracy': 0.5}
        """
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
    """Ends a run whose held-out figure has not risen for a while.

    Of a figure of which less is better, as the evaluations say, a fall is what is called a rise
    here. An evaluation is a rise if its figure is above that of the last rise by more than
    `min_delta`; the first one is. The run ends with the evaluation that is the `patience`-th in a
    row without one. The decision is a function of the figures alone, so that a run that was
    interrupted ends at the step at which it would have ended.

    Args:
        metric: the figure.
        patience: evaluations without a rise.
        min_delta: how much more than the last rise is one.

    Raises:
        ValueError: a number is out of range, or `metric` is blank.

    Example:
        >>> rows = [HeldOutFigures(step=s, figures={"accuracy": a})
        ...         for s, a in ((0, 0.5), (25, 0.75), (50, 0.75), (75, 0.7))]
        >>> stop = EarlyStop(metric="accuracy", patience=2)
        >>> [stop.ends(rows[:n]) for n in range(5)], stop.best(rows).step
        ([False, False, False, False, True], 25)
    """

    metric: str = attrs.field(validator=_named)
    patience: int = attrs.field(default=3, validator=integer(1, STEPS))
    min_delta: float = attrs.field(default=0.0, validator=real(0))

    def ends(self, rows: Sequence[HeldOutFigures]) -> bool:
        """Whether the run ends after these evaluations, the first of the run first."""
        return self.waited(rows) >= self.patience

    def waited(self, rows: Sequence[HeldOutFigures]) -> int:
        """How many of these evaluations, the last ones, have been without a rise."""
        last, waited = None, 0
        for value in map(self._worth(rows), self._measured(rows)):
            if last is None or value > last + self.min_delta:
                last, waited = value, 0
            else:
                waited += 1
        return waited

    def best(self, rows: Sequence[HeldOutFigures]) -> HeldOutFigures | None:
        """The evaluation with the best figure, of equals the earliest; None without any."""
        measured = self._measured(rows)
        return max(measured, key=self._worth(rows)) if measured else None

    def less_is_better(self, rows: Sequence[HeldOutFigures]) -> bool:
        """Whether the figure is one of which less is better, by the last that has it."""
        measured = self._measured(rows)
        return bool(measured) and measured[-1].signs.get(self.metric) == -1

    def _worth(self, rows: Sequence[HeldOutFigures]) -> Callable[[HeldOutFigures], float]:
        sign = -1 if self.less_is_better(rows) else 1
        return lambda row: sign * row.figures[self.metric]

    def _measured(self, rows: Sequence[HeldOutFigures]) -> list[HeldOutFigures]:
        # Before a run went on with another metric its evaluations may lack it.
        return [row for row in rows if self.metric in row.figures]
