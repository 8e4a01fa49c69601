"""Calls of one metric: what it returns, and what becomes of its failures."""

from __future__ import annotations

import gc
import math
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import attrs
import torch
from torch import Tensor

from flowbp.cli.evaluate.pictures import Shot
from flowbp.component_errors import ComponentError
from flowbp.evaluation import HeldOutText, Metric, MetricFailure, PictureSet, SetMetric
from flowbp.evaluation.metric_runner import ColumnNames, metric_columns, run_metric
from flowbp.memory_errors import is_out_of_memory

Values = Mapping[str, float]


@attrs.frozen(eq=False)
class MetricCalls:
    """Calls of one metric; a failure stops the evaluation, or is added to the failures."""

    label: str
    metric: Any
    stops: bool
    failures: list[MetricFailure]
    _names: ColumnNames = attrs.field(factory=ColumnNames, init=False, repr=False)

    def pictures(self, images: Tensor, shots: Sequence[Shot]) -> dict[Shot, Values]:
        """Have some pictures judged together, or each alone where they cannot be."""
        found, failed = run_metric(
            self._judged, images, shots, stops=self.stops, freed=clear_frames
        )
        for each in failed:
            assert each.error is not None
            if self.stops:
                raise stopping_error(self.label, each.of, each.error) from each.error
            if len(each.of) == len(shots) > 1:
                self.failures.append(self._of_batch(shots, each.error))
            else:
                self.failures.append(picture_failure(self.label, each.of[0], each.error))
        return {shot: values for own in found for shot, values in own.items()}

    def sets(
        self, model: PictureSet, base: PictureSet, shots: Sequence[Shot]
    ) -> dict[Shot, Values]:
        """Have all pictures of a model judged."""
        try:
            found = judge_set(self.label, self.metric, model, base, shots)
            self.expect(found)
        # A metric is code of others, and whatever it raises is its failure.
        except Exception as error:
            if self.stops:
                raise stopping_error(self.label, shots, error) from error
            message = reason(clear_frames(error))
            self.failures.append(
                MetricFailure(metric=self.label, message=message, model=model.label)
            )
            return {}
        return dict(zip(shots, found, strict=True))

    def expect(self, found: Iterable[Values]) -> None:
        """Refuse values of other columns than those before, in whatever order."""
        for values in found:
            if not self.agrees([values]):
                raise ValueError(
                    f"`{self.label}` must return the same columns for all pictures, NaN where it "
                    f"judges nothing, got {list(values)} after {self._names.first}"
                )

    def agrees(self, found: Iterable[Values]) -> bool:
        """Whether values are of the columns of those before; the first decide on them."""
        return all(map(self._names.agree, found))

    def _judged(self, images: Tensor, shots: Sequence[Shot]) -> dict[Shot, Values]:
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


def all_nan_failures(
    label: str, found: Mapping[Shot, Values], *, totals: Mapping[str, Sequence[str]]
) -> tuple[MetricFailure, ...]:
    """A failure for each model of which all values of a metric, or of a column, are NaN."""
    by_model: dict[str, list[Values]] = {}
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
            whose = "its values" if missed == columns else f"values of {', '.join(missed)}"
            message = (
                f"judges none of the {len(rows)} pictures, all {whose} are NaN; evaluate prompts "
                "that it can judge"
            )
            failures.append(MetricFailure(metric=label, message=message, model=model))
    return tuple(failures)


def clear_frames(error: Exception) -> Exception:
    """Release what the frames of an error hold, such as tensors on the device."""
    each: BaseException | None = error
    while each is not None:
        traceback.clear_frames(each.__traceback__)
        each = each.__cause__ or each.__context__
    free_memory()
    return error


def column(label: str, name: str) -> str:
    """The name of a metric's column among those of all metrics: its label comes first."""
    return name if name == label or name.startswith(f"{label}.") else f"{label}.{name}"


@torch.no_grad()
def judge_pictures(
    label: str, metric: Metric, images: Tensor, shots: Sequence[Shot]
) -> list[Mapping[str, float]]:
    """Call a metric, and refuse what is no set of columns."""
    texts = [HeldOutText(shot.prompt) for shot in shots]
    return _rows(label, metric, lambda: metric(images, texts), texts)


@torch.no_grad()
def judge_set(
    label: str, metric: SetMetric, model: PictureSet, base: PictureSet, shots: Sequence[Shot]
) -> list[Mapping[str, float]]:
    """The same of all pictures of a model."""
    return _rows(label, metric, lambda: metric(model, base), [shot.prompt.text for shot in shots])


def _rows(
    label: str, metric: Any, call: Callable[[], Any], texts: Sequence[str]
) -> list[Mapping[str, float]]:
    called = partial(column, label)
    by_name = metric_columns(metric, call, texts, label=label, called=called)
    values = {name: each.tolist() for name, each in by_name.items()}
    return [{name: each[i] for name, each in values.items()} for i in range(len(texts))]


def stopping_error(label: str, shots: Sequence[Shot], error: Exception) -> EvaluateError:
    """The error that ends an evaluation at a metric that failed."""
    first = shots[0]
    which = f"the picture of {first.prompt.text!r}, seed {first.seed},"
    if len(shots) > 1:
        which = f"{len(shots)} pictures together, the first of {first.prompt.text!r},"
    cure = "evaluation.on_failure=report continues without what fails"
    if is_out_of_memory(error):
        cure = "what is done is kept, and --resume continues"
    return EvaluateError(
        f"the metric `{label}` failed at {which} of the model `{first.model}`: {reason(error)}; "
        f"{cure}"
    )


def picture_failure(label: str, shot: Shot, error: Exception) -> MetricFailure:
    """A failure at one picture, for the results."""
    return MetricFailure(
        metric=label,
        message=reason(error),
        model=shot.model,
        prompt=shot.prompt.text,
        seed=shot.seed,
    )


_SMALLER = "lower evaluation.batch, or the metric's own `batch` where it has one"


class EvaluateError(RuntimeError):
    """An evaluation cannot go on; the message says at what, and what to do."""


def reason(error: BaseException) -> str:
    """An error in one line, with its notes, and its cure where memory is short."""
    notes = [*getattr(error, "__notes__", ()), *([_SMALLER] if is_out_of_memory(error) else ())]
    if isinstance(error, ComponentError):
        # What it says of prompts and stage is said beside.
        return "; ".join([f"{error.component} {error.problem}", *notes])
    return f"{type(error).__name__}: {'; '.join([str(error), *notes])}"


def free_memory() -> None:
    """Give back what nobody holds any more, the device's memory too."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
