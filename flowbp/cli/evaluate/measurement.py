"""All metrics on all pictures, one metric after the other, and what becomes of their failures."""

from __future__ import annotations

import gc
import math
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import attrs
import torch
from torch import Tensor

from flowbp.cli.evaluate.fingerprint import Digests, fingerprint
from flowbp.cli.evaluate.metric_values import FIGURES, ColumnInfo, StoredValues, column
from flowbp.cli.evaluate.pictures import Pictures, Shot
from flowbp.cli.evaluate.settings import EvaluateSettings
from flowbp.cli.progress import report_progress
from flowbp.component_errors import ComponentError
from flowbp.config import Component
from flowbp.evaluation import HeldOutText, MetricFailure, PictureSet, ScoreRow, Scores, is_of_sets
from flowbp.evaluation.metric_runner import ColumnNames, metric_columns, run_metric
from flowbp.memory_errors import is_out_of_memory
from flowbp.rewards import Towers
from flowbp.settings import resolved_values
from flowbp.settings.component_needs import missing_needs, towers_of

Values = Mapping[str, float]

_PENDING = "not measured yet; --resume continues"
_CONTINUES = "evaluation.on_failure=report continues without"
_SMALLER = "lower evaluation.batch, or the metric's own `batch` where it has one"


class EvaluateError(RuntimeError):
    """An evaluation cannot go on; the message says at what, and what to do."""


@attrs.frozen(eq=False)
class Measurement:
    """The metrics of one evaluation at work; each is loaded when its turn comes."""

    settings: EvaluateSettings
    pictures: Pictures
    build: Callable[[str, Component[Any]], Any]
    towers: Towers
    digests: Digests
    found: dict[str, dict[Shot, Values]] = attrs.field(factory=dict, init=False)
    failures: list[MetricFailure] = attrs.field(factory=list, init=False)
    declared: dict[str, ColumnInfo] = attrs.field(factory=dict, init=False)
    _trees: Mapping[str, Any] = attrs.field(init=False, repr=False)
    _made: dict[str, Mapping[str, Any]] = attrs.field(factory=dict, init=False, repr=False)

    @_trees.default
    def _configured(self) -> Mapping[str, Any]:
        trees: Mapping[str, Any] = resolved_values(self.settings)["metrics"]
        return trees

    def run(self) -> Iterator[Scores]:
        """Have every metric judge every picture, and yield all scores after each metric."""
        metrics = self.settings.metrics
        order = sharing_order({label: towers_of(each) for label, each in metrics.items()})
        left = [label for label in order if not self._recall(label)]
        if not left:
            yield self.scores()
        while left:
            label, *left = left
            self._measure(label, before=left)
            yield self.scores()

    def scores(self) -> Scores:
        """What is known, in the order of the configuration."""
        labels = list(self.settings.metrics)
        pending = [label for label in labels if label not in self.found]
        failures = [*self.failures, *(MetricFailure(metric=p, message=_PENDING) for p in pending)]
        rows = []
        for shot in self.pictures.shots():
            known = (self.found[label].get(shot, {}) for label in labels if label in self.found)
            rows.append(
                ScoreRow(
                    model=shot.model,
                    number=shot.number,
                    seed=shot.seed,
                    prompt=shot.prompt.text,
                    kind=shot.prompt.kind,
                    values={column: value for each in known for column, value in each.items()},
                )
            )
        said = [self.declared[label] for label in labels if label in self.declared]
        totals = {name: columns for own in said for name, columns in own.totals.items()}
        scales = {name: scale for own in said for name, scale in own.scales.items()}
        failures.sort(key=lambda each: labels.index(each.metric))
        return Scores(rows, failures, totals, scales)

    def _recall(self, label: str) -> bool:
        """Take up the values of a metric, if those of all pictures are stored."""
        self._fingerprint(label)
        found: dict[Shot, Values] = {}
        stored = {model: self._stored(label, model).read() for model in self.pictures.models}
        for shot in self.pictures.shots():
            there = stored[shot.model].values
            if not there or self.pictures.key(shot) not in there:
                return False
            found[shot] = there[self.pictures.key(shot)]
        self.found[label] = found
        self.declared[label] = stored[self.pictures.models[0]].declared
        print(f"{label}: all values are there", flush=True)
        self._refuse_all_nan(label)
        return True

    def _measure(self, label: str, *, before: Sequence[str]) -> None:
        """Load a metric, have it judge, and release the models that none after it reads."""
        metrics, found = self.settings.metrics, self.found.setdefault(label, {})
        missing = [] if self._stops else [message for _, message in missing_needs(metrics[label])]
        if missing:
            # It was reported at the start, and trying again could take minutes.
            self.failures.append(MetricFailure(metric=label, message="; ".join(missing)))
            return
        try:
            metric = self.build(label, metrics[label])
        # Loading runs code of others, and whatever it raises is the metric's failure.
        except Exception as error:
            message = error_text(error)
            what = f"cannot be built: {message}; what is done is kept, and --resume continues"
            self._fail(MetricFailure(metric=label, message=message), what, error)
            return
        # Now, as what was downloaded has its place on disk, and its commit, only since.
        self._fingerprint(label)
        stored = (self._stored(label, model).read() for model in self.pictures.models)
        for what in {each.changed for each in stored if each.changed is not None}:
            print(f"{label}: {what} changed; pictures are judged again", flush=True)
        self.towers.hold({p for each in before for p in towers_of(metrics[each])})
        self.declared[label] = ColumnInfo.by(label, metric)
        judge = self._of_sets if is_of_sets(metric) else self._of_pictures
        total = len(self.pictures.shots())
        calls = MetricCalls(label, metric, self._stops, self.failures)
        with report_progress(f"measuring {label}", total, unit="picture") as progress:
            for together in judge(label, calls):
                found.update(together)
                progress(len(found), total)
        del metric, calls
        free_memory()
        self._refuse_all_nan(label)

    def _of_pictures(self, label: str, calls: MetricCalls) -> Iterator[dict[Shot, Values]]:
        for model in self.pictures.models:
            kept = self._stored(label, model)
            there = kept.begin(self.declared[label])
            for shots in self.pictures.batches(model):
                keys = {shot: self.pictures.key(shot) for shot in shots}
                known = {shot: there[key] for shot, key in keys.items() if key in there}
                if len(known) == len(shots) and all(map(calls.agrees, known.values())):
                    yield known
                    continue
                # A batch is judged whole, so that numbers round as they would in one go.
                found = calls.pictures(self.pictures.images(shots), shots)
                kept.add(
                    (keys[shot], values)
                    for shot, values in found.items()
                    # Of one that is kept twice, the later values hold.
                    if known.get(shot, {}).keys() != values.keys()
                )
                yield {shot: found.get(shot, {}) for shot in shots}

    def _of_sets(self, label: str, calls: MetricCalls) -> Iterator[dict[Shot, Values]]:
        base = self.pictures.set_of(self.pictures.models[0])
        for model in self.pictures.models:
            shots = self.pictures.shots(model)
            found = calls.sets(self.pictures.set_of(model), base, shots)
            if found:
                stored = {self.pictures.key(shot): values for shot, values in found.items()}
                self._stored(label, model).write(stored, self.declared[label])
            yield {shot: found.get(shot, {}) for shot in shots}

    def _refuse_all_nan(self, label: str) -> None:
        totals = self.declared[label].totals
        for each in all_nan_failures(label, self.found[label], totals=totals):
            self._fail(each, f"{each.message}; these are of the model `{each.model}`")

    def _fail(self, failure: MetricFailure, what: str, error: Exception | None = None) -> None:
        """Stop at a failure, or add it to those that are reported."""
        if self._stops:
            raise EvaluateError(f"the metric `{failure.metric}` {what}; {_CONTINUES}") from error
        self.failures.append(failure)

    @property
    def _stops(self) -> bool:
        return bool(self.settings.evaluation.on_failure == "stop")

    def _stored(self, label: str, model: str) -> StoredValues:
        folder = self.settings.evaluation.folder / FIGURES / label
        return StoredValues(
            folder / f"{model}.jsonl",
            self._trees[label],
            self.pictures.digest(model),
            self._made[label],
        )

    def _fingerprint(self, label: str) -> None:
        self._made[label] = fingerprint(self.settings.metrics[label], self.digests)


def sharing_order(towers: Mapping[str, frozenset[str]]) -> list[str]:
    """Metrics in an order in which those that share a model follow each other."""
    left, order = list(towers), []
    open_towers: frozenset[str] = frozenset()
    while left:
        best = max(left, key=lambda label: len(towers[label] & open_towers))
        left.remove(best)
        order.append(best)
        wanted = frozenset[str]().union(*(towers[label] for label in left))
        open_towers = (open_towers | towers[best]) & wanted
    return order


@attrs.frozen(eq=False)
class MetricCalls:
    """Calls of one metric; a failure stops the evaluation, or is added to the failures."""

    label: str
    metric: Any
    stops: bool
    failures: list[MetricFailure]
    _names: ColumnNames = attrs.field(factory=ColumnNames, init=False, repr=False)

    @torch.no_grad()
    def pictures(self, images: Tensor, shots: Sequence[Shot]) -> dict[Shot, Values]:
        """Have some pictures judged together, or each alone where they cannot be."""

        def judge(images: Tensor, shots: Sequence[Shot]) -> dict[Shot, Values]:
            texts = [HeldOutText(shot.prompt) for shot in shots]
            return self._judged(lambda: self.metric(images, texts), texts, shots)

        found, failed = run_metric(judge, images, shots, stops=self.stops, freed=clear_frames)
        for each in failed:
            assert each.error is not None
            if self.stops:
                raise stopping_error(self.label, each.of, each.error) from each.error
            self.failures.append(picture_failure(self.label, each.of, each.error))
        return {shot: values for own in found for shot, values in own.items()}

    @torch.no_grad()
    def sets(
        self, model: PictureSet, base: PictureSet, shots: Sequence[Shot]
    ) -> dict[Shot, Values]:
        """Have all pictures of a model judged."""
        texts = [shot.prompt.text for shot in shots]
        try:
            return self._judged(lambda: self.metric(model, base), texts, shots)
        # A metric is code of others, and whatever it raises is its failure.
        except Exception as error:
            if self.stops:
                raise stopping_error(self.label, shots, error) from error
            message = error_text(clear_frames(error))
            self.failures.append(
                MetricFailure(metric=self.label, message=message, model=model.label)
            )
            return {}

    def agrees(self, values: Values) -> bool:
        """Whether values are of the columns of those before; the first decide on them."""
        return self._names.agree(values)

    def _judged(
        self, call: Callable[[], Any], texts: Sequence[str], shots: Sequence[Shot]
    ) -> dict[Shot, Values]:
        called = partial(column, self.label)
        found = metric_columns(self.metric, call, texts, label=self.label, called=called)
        if not self._names.agree(found):
            raise ValueError(
                f"`{self.label}` must return the same columns for all pictures, NaN where it "
                f"judges nothing, got {list(found)} after {self._names.first}"
            )
        values = {name: each.tolist() for name, each in found.items()}
        return {
            shot: {name: each[place] for name, each in values.items()}
            for place, shot in enumerate(shots)
        }


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


def stopping_error(label: str, shots: Sequence[Shot], error: Exception) -> EvaluateError:
    """The error that ends an evaluation at a metric that failed."""
    first = shots[0]
    which = f"the picture of {first.prompt.text!r}, seed {first.seed},"
    if len(shots) > 1:
        which = f"{len(shots)} pictures together, the first of {first.prompt.text!r},"
    cure = f"{_CONTINUES} what fails"
    if is_out_of_memory(error):
        cure = "what is done is kept, and --resume continues"
    return EvaluateError(
        f"the metric `{label}` failed at {which} of the model `{first.model}`: "
        f"{error_text(error)}; {cure}"
    )


def picture_failure(label: str, shots: Sequence[Shot], error: Exception) -> MetricFailure:
    """A failure at one picture, or at several together, for the results."""
    first, message = shots[0], error_text(error)
    if len(shots) == 1:
        prompt, seed = first.prompt.text, first.seed
        return MetricFailure(
            metric=label, message=message, model=first.model, prompt=prompt, seed=seed
        )
    together = (
        f"{len(shots)} pictures together, the first of {first.prompt.text!r}, seed {first.seed}, "
        f"which could then be judged one at a time: {message}"
    )
    return MetricFailure(metric=label, message=together, model=first.model)


def error_text(error: BaseException) -> str:
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
