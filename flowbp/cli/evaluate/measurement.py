"""All metrics on all pictures, one metric after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import attrs

from flowbp.cli.evaluate.container import EvaluationContainer
from flowbp.cli.evaluate.fingerprint import Digests, made_of
from flowbp.cli.evaluate.metric_calls import (
    EvaluateError,
    MetricCalls,
    Values,
    all_nan_failures,
    free_memory,
    reason,
)
from flowbp.cli.evaluate.metric_values import FIGURES, ColumnInfo, StoredValues
from flowbp.cli.evaluate.pictures import Pictures, Shot
from flowbp.cli.evaluate.settings import EvaluateSettings
from flowbp.cli.progress import report_progress
from flowbp.config import Component
from flowbp.evaluation import MetricFailure, ScoreRow, Scores, is_of_sets
from flowbp.rewards import Towers
from flowbp.settings import resolved_values
from flowbp.settings.component_needs import towers_of, unmet

_PENDING = "not measured yet; --resume continues"


def measure_all(container: EvaluationContainer) -> Iterator[Scores]:
    """Have every metric judge every picture, and yield all scores after each metric."""
    settings, metrics = container.settings(), container.settings().metrics
    pictures = Pictures(settings, container.prompts(), container.device())
    run = Measurement(settings, pictures, container.metric, container.towers(), container.digests())
    left = sharing_order({label: towers_of(each) for label, each in metrics.items()})
    for label in [label for label in left if run.recall(label)]:
        left.remove(label)
    if not left:
        yield run.scores()
    while left:
        label, *left = left
        run.measure(label, before=left)
        yield run.scores()


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

    def recall(self, label: str) -> bool:
        """Take up the values of a metric, if those of all pictures are stored."""
        self._fingerprint(label)
        found: dict[Shot, Values] = {}
        for model in self.pictures.models:
            there = self._stored(label, model).read()
            for shot in self.pictures.shots(model):
                values = there.get(self.pictures.key(shot))
                if values is None:
                    return False
                found[shot] = values
        self.found[label] = found
        self.declared[label] = self._stored(label, self.pictures.models[0]).declared()
        print(f"{label}: all values are there", flush=True)
        self._add_all_nan(label)
        return True

    def measure(self, label: str, *, before: Sequence[str]) -> None:
        """Load a metric, have it judge, and release the models that none after it reads."""
        metrics = self.settings.metrics
        missing = [] if self._stops else [message for _, message in unmet(metrics[label])]
        if missing:
            # It was reported at the start, and trying again could take minutes.
            self.failures.append(MetricFailure(metric=label, message="; ".join(missing)))
            self.found[label] = {}
            return
        try:
            metric = self.build(label, metrics[label])
        # Loading runs code of others, and whatever it raises is the metric's failure.
        except Exception as error:
            if self._stops:
                raise EvaluateError(
                    f"the metric `{label}` cannot be built: {reason(error)}; what is done is "
                    "kept, and --resume continues; evaluation.on_failure=report continues without"
                ) from error
            self.failures.append(MetricFailure(metric=label, message=reason(error)))
            self.found[label] = {}
            return
        # Now, as what was downloaded has its place on disk, and its commit, only since.
        self._fingerprint(label)
        changed = filter(None, (self._stored(label, m).changed() for m in self.pictures.models))
        for what in set(changed):
            print(f"{label}: {what} changed; pictures are judged again", flush=True)
        self.towers.hold({p for each in before for p in towers_of(metrics[each])})
        self.declared[label] = ColumnInfo.by(label, metric)
        find = self._of_sets if is_of_sets(metric) else self._of_pictures
        total, found = len(self.pictures.shots()), self.found.setdefault(label, {})
        calls = MetricCalls(label, metric, self._stops, self.failures)
        with report_progress(f"measuring {label}", total, unit="picture") as progress:
            for together in find(label, calls):
                found.update(together)
                progress(len(found), total)
        del metric, calls
        free_memory()
        self._add_all_nan(label)

    def _of_pictures(self, label: str, calls: MetricCalls) -> Iterator[dict[Shot, Values]]:
        for model in self.pictures.models:
            kept = self._stored(label, model)
            there = kept.begin(self.declared[label])
            for shots in self.pictures.batches(model):
                keys = {shot: self.pictures.key(shot) for shot in shots}
                known = {shot: there[key] for shot, key in keys.items() if key in there}
                if len(known) == len(shots) and calls.agrees(known.values()):
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

    def _add_all_nan(self, label: str) -> None:
        totals = self.declared[label].totals
        for each in all_nan_failures(label, self.found[label], totals=totals):
            if self._stops:
                raise EvaluateError(
                    f"the metric `{label}` {each.message}; these are of the model `{each.model}`; "
                    "evaluation.on_failure=report continues without"
                )
            self.failures.append(each)

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
        self._made[label] = made_of(self.settings.metrics[label], self.digests)


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
