"""All metrics on all pictures; what fails stops the evaluation, or is told in its results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs

from flowbp.configuration import plain, read_text
from flowbp.evaluate.attempts import Attempts, Figures, nothing_judged
from flowbp.evaluate.container import EvaluationContainer
from flowbp.evaluate.declared import Declared
from flowbp.evaluate.failing import EvaluateError, reason
from flowbp.evaluate.figures import FIGURES, Kept
from flowbp.evaluate.fingerprints import made_of
from flowbp.evaluate.memory import release
from flowbp.evaluate.order import sharing_order
from flowbp.evaluate.picture_sets import Pictures
from flowbp.evaluate.pictures import Shot
from flowbp.evaluation import MetricFailure, ScoreRow, Scores, is_of_sets
from flowbp.run.telling import told_progress
from flowbp.settings import resolved
from flowbp.settings.needs import towers_of, unmet

_PENDING = "not measured yet; --resume goes on"


def measured(container: EvaluationContainer) -> Iterator[Scores]:
    """Have every metric judge every picture, each once; one metric after the other is loaded.

    Metrics that share a model follow each other, and the model stays until the last of them is
    done. One whose figures are all kept is not loaded.

    Args:
        container: of the evaluation, whose pictures are all there.

    Yields:
        After each metric the scores of all models, the first of them the base, and what failed;
        what is yet to be measured counts as failed. The last is whole.

    Raises:
        EvaluateError: a metric failed, unless the settings say to report that.
        OSError: a figure cannot be written.

    Example:
        See `flowbp.evaluate.execution.execute`.
    """
    run = Measurement(container, Pictures(container))
    metrics = container.settings().metrics
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
    """The metrics of one evaluation at work.

    Args:
        container: of the evaluation.
        pictures: all of them.
        found: figures of every picture by the labels of metrics that are done.
        failures: of those metrics.
        declared: what those metrics say of their columns, by their labels.

    Example:
        See `measured`.
    """

    container: EvaluationContainer
    pictures: Pictures
    found: dict[str, dict[Shot, Figures]] = attrs.field(factory=dict, init=False)
    failures: list[MetricFailure] = attrs.field(factory=list, init=False)
    declared: dict[str, Declared] = attrs.field(factory=dict, init=False)
    _trees: Mapping[str, Any] = attrs.field(init=False, repr=False)
    _made: dict[str, Mapping[str, Any]] = attrs.field(factory=dict, init=False, repr=False)

    @_trees.default
    def _written(self) -> Mapping[str, Any]:
        written = plain(read_text(resolved(self.container.settings()), "the settings"))
        trees: Mapping[str, Any] = written["metrics"]
        return trees

    def scores(self) -> Scores:
        """What is known, in the order of the configuration."""
        labels = list(self.container.settings().metrics)
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
        """Take up the figures of a metric, if those of all pictures are kept."""
        self._look(label)
        found: dict[Shot, Figures] = {}
        for model in self.pictures.models:
            there = self._kept(label, model).read()
            for shot in self.pictures.shots(model):
                values = there.get(self.pictures.key(shot))
                if values is None:
                    return False
                found[shot] = values
        self.found[label] = found
        self.declared[label] = self._kept(label, self.pictures.models[0]).declared()
        print(f"{label}: all figures are there", flush=True)
        self._refuse_nothing(label)
        return True

    def measure(self, label: str, *, before: Sequence[str]) -> None:
        """Load a metric, have it judge, and let go of what none of those after it reads."""
        metrics = self.container.settings().metrics
        unready = [] if self._stops else [message for _, message in unmet(metrics[label])]
        if unready:
            # It was told at the start, and trying again could take minutes.
            self.failures.append(MetricFailure(metric=label, message="; ".join(unready)))
            self.found[label] = {}
            return
        try:
            metric = self.container.metric(label, metrics[label])
        # Loading runs code of others, and whatever it raises is the metric's failure.
        except Exception as error:
            if self._stops:
                raise EvaluateError(
                    f"the metric `{label}` cannot be built: {reason(error)}; what is done is "
                    "kept, and --resume goes on; evaluation.on_failure=report goes on without"
                ) from error
            self.failures.append(MetricFailure(metric=label, message=reason(error)))
            self.found[label] = {}
            return
        # Now, as what was downloaded has its place on disk, and its commit, only since.
        self._look(label)
        changed = filter(None, (self._kept(label, m).changed() for m in self.pictures.models))
        for what in set(changed):
            print(f"{label}: {what} changed; pictures are judged again", flush=True)
        self.container.towers().hold({p for each in before for p in towers_of(metrics[each])})
        self.declared[label] = Declared.by(label, metric)
        find = self._of_sets if is_of_sets(metric) else self._of_pictures
        total, found = len(self.pictures.shots()), self.found.setdefault(label, {})
        attempts = Attempts(label, metric, self._stops, self.failures)
        with told_progress(f"measuring {label}", total, unit="picture") as progress:
            for together in find(label, attempts):
                found.update(together)
                progress(len(found), total)
        del metric, attempts
        release()
        self._refuse_nothing(label)

    def _of_pictures(self, label: str, attempts: Attempts) -> Iterator[dict[Shot, Figures]]:
        for model in self.pictures.models:
            kept = self._kept(label, model)
            there = kept.begin(self.declared[label])
            for shots in self.pictures.batches(model):
                keys = {shot: self.pictures.key(shot) for shot in shots}
                known = {shot: there[key] for shot, key in keys.items() if key in there}
                if len(known) == len(shots) and attempts.agrees(known.values()):
                    yield known
                    continue
                # A batch is judged whole, so that figures round as they would in one go.
                found = attempts.pictures(self.pictures.images(shots), shots)
                kept.add(
                    (keys[shot], values)
                    for shot, values in found.items()
                    # Of one that is kept twice, the later figures hold.
                    if known.get(shot, {}).keys() != values.keys()
                )
                yield {shot: found.get(shot, {}) for shot in shots}

    def _of_sets(self, label: str, attempts: Attempts) -> Iterator[dict[Shot, Figures]]:
        base = self.pictures.set_of(self.pictures.models[0])
        for model in self.pictures.models:
            shots = self.pictures.shots(model)
            found = attempts.sets(self.pictures.set_of(model), base, shots)
            if found:
                figures = {self.pictures.key(shot): values for shot, values in found.items()}
                self._kept(label, model).write(figures, self.declared[label])
            yield {shot: found.get(shot, {}) for shot in shots}

    def _refuse_nothing(self, label: str) -> None:
        totals = self.declared[label].totals
        for each in nothing_judged(label, self.found[label], totals=totals):
            if self._stops:
                raise EvaluateError(
                    f"the metric `{label}` {each.message}; these are of the model `{each.model}`; "
                    "evaluation.on_failure=report goes on without"
                )
            self.failures.append(each)

    @property
    def _stops(self) -> bool:
        return bool(self.container.settings().evaluation.on_failure == "stop")

    def _kept(self, label: str, model: str) -> Kept:
        folder = self.container.settings().evaluation.folder / FIGURES / label
        return Kept(
            folder / f"{model}.jsonl",
            self._trees[label],
            self.pictures.digest(model),
            self._made[label],
        )

    def _look(self, label: str) -> None:
        container = self.container
        self._made[label] = made_of(container.settings().metrics[label], container.digests())
