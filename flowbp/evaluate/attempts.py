"""A metric at work: what it finds, and what becomes of its failures."""

from __future__ import annotations

import math
import traceback
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs
from torch import Tensor

from flowbp.evaluate.failing import reason
from flowbp.evaluate.judging import failure, judge_pictures, judge_set, stopped
from flowbp.evaluate.memory import release
from flowbp.evaluate.pictures import Shot
from flowbp.evaluation import MetricFailure, PictureSet
from flowbp.evaluation.asking import Names, outcomes
from flowbp.short_memory import is_short_memory

Figures = Mapping[str, float]


@attrs.frozen(eq=False)
class Attempts:
    """What one metric finds. A failure stops the evaluation, unless it is to be reported.

    Args:
        label: of the metric.
        metric: of pictures or of sets of them.
        stops: whether a failure stops the evaluation.
        failures: where they are added else.

    Example:
        >>> import torch
        >>> from flowbp.evaluation import HeldOutPrompt
        >>> shot, failures = Shot("base", 0, 0, HeldOutPrompt("a circle")), []
        >>> attempts = Attempts("mine", lambda images, prompts: None, False, failures)
        >>> attempts.pictures(torch.ones(1, 3, 2, 2), [shot])
        {}
        >>> [each.prompt for each in failures]
        ['a circle']
    """

    label: str
    metric: Any
    stops: bool
    failures: list[MetricFailure]
    _names: Names = attrs.field(factory=Names, init=False, repr=False)

    def pictures(self, images: Tensor, shots: Sequence[Shot]) -> dict[Shot, Figures]:
        """Have some pictures judged together, or each alone where they cannot be.

        Args:
            images: (B, 3, H, W) in [0, 1].
            shots: which they are.

        Returns:
            Values by column, of the pictures that were judged.

        Raises:
            EvaluateError: the metric failed, and that is to stop the evaluation.
        """
        asked = outcomes(self._judged, images, shots)
        whole = next(asked)
        if whole.error is None:
            return whole.result()
        together = let_go(whole.error)
        if self.stops and (len(shots) == 1 or is_short_memory(together)):
            raise stopped(self.label, shots, together) from together
        found: dict[Shot, Figures] = {}
        failed = []
        for alone in asked:
            if alone.error is None:
                found |= alone.result()
            elif self.stops:
                raise stopped(self.label, alone.of, alone.error) from alone.error
            else:
                failed.append(failure(self.label, alone.of[0], let_go(alone.error)))
        if self.stops:
            raise stopped(self.label, shots, together) from together
        self.failures.extend(failed or [self._of_batch(shots, together)])
        return found

    def sets(
        self, model: PictureSet, base: PictureSet, shots: Sequence[Shot]
    ) -> dict[Shot, Figures]:
        """Have all pictures of a model judged.

        Args:
            model: its pictures.
            base: those of the base model.
            shots: which those of the model are.

        Returns:
            Values by column, of each picture; none if the metric failed.

        Raises:
            EvaluateError: the metric failed, and that is to stop the evaluation.
        """
        try:
            found = judge_set(self.label, self.metric, model, base, shots)
            self.expect(found)
        # A metric is code of others, and whatever it raises is its failure.
        except Exception as error:
            if self.stops:
                raise stopped(self.label, shots, error) from error
            message = reason(let_go(error))
            self.failures.append(
                MetricFailure(metric=self.label, message=message, model=model.label)
            )
            return {}
        return dict(zip(shots, found, strict=True))

    def expect(self, found: Iterable[Figures]) -> None:
        """Refuse figures of other columns than those before, in whatever order.

        Args:
            found: values by column, of some pictures.

        Raises:
            ValueError: with both lists of columns.
        """
        for values in found:
            if not self.agrees([values]):
                raise ValueError(
                    f"`{self.label}` must return the same columns for all pictures, NaN where it "
                    f"judges nothing, got {list(values)} after {self._names.first}"
                )

    def agrees(self, found: Iterable[Figures]) -> bool:
        """Whether figures are of the columns of those before; the first decide on them.

        Args:
            found: values by column, of some pictures.

        Returns:
            False if there is another column, or one lacks.
        """
        return all(map(self._names.agree, found))

    def _judged(self, images: Tensor, shots: Sequence[Shot]) -> dict[Shot, Figures]:
        found = judge_pictures(self.label, self.metric, images, shots)
        self.expect(found)
        return dict(zip(shots, found, strict=True))

    def _of_batch(self, shots: Sequence[Shot], error: Exception) -> MetricFailure:
        return MetricFailure(
            metric=self.label,
            message=f"{len(shots)} pictures together, the first of {shots[0].prompt.text!r}, seed "
            f"{shots[0].seed}, which could then be judged one at a time: {reason(error)}",
            model=shots[0].model,
        )


def nothing_judged(
    label: str, found: Mapping[Shot, Figures], *, totals: Mapping[str, Sequence[str]]
) -> tuple[MetricFailure, ...]:
    """What a metric has no figure of though it did not fail.

    Args:
        label: of the metric.
        found: values by column, of pictures of all models; none of a picture at which it failed.
        totals: columns by the name of their total. One of these may judge nothing of the prompts,
            if another column judges some.

    Returns:
        A failure for each model in which all figures, or all of a column, are NaN.

    Example:
        >>> from flowbp.evaluation import HeldOutPrompt
        >>> shot = Shot("base", 0, 0, HeldOutPrompt("a circle"))
        >>> found = {shot: {"mine": math.nan}}
        >>> [each.model for each in nothing_judged("mine", found, totals={})]
        ['base']
    """
    by_model: dict[str, list[Figures]] = {}
    for shot, values in found.items():
        if values:
            by_model.setdefault(shot.model, []).append(values)
    failures = []
    for model, rows in by_model.items():
        columns = list(rows[0])
        empty = [name for name in columns if all(math.isnan(values[name]) for values in rows)]
        missed = empty
        if len(empty) < len(columns):
            missed = [name for name in empty if name not in {c for t in totals.values() for c in t}]
        if missed:
            whose = "its figures" if missed == columns else f"figures of {', '.join(missed)}"
            message = (
                f"judges none of the {len(rows)} pictures, all {whose} are NaN; evaluate prompts "
                "that it can judge"
            )
            failures.append(MetricFailure(metric=label, message=message, model=model))
    return tuple(failures)


def let_go(error: Exception) -> Exception:
    """Let go of what the frames of an error hold, such as tensors on the device.

    Args:
        error: that was caught; those that it was raised from count too.

    Returns:
        The error, whose traceback still says where.

    Example:
        >>> let_go(ValueError("no"))
        ValueError('no')
    """
    each: BaseException | None = error
    while each is not None:
        traceback.clear_frames(each.__traceback__)
        each = each.__cause__ or each.__context__
    release()
    return error
