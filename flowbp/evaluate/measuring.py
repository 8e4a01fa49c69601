"""All metrics on all pictures; what fails stops the evaluation, or is told in its results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor

from flowbp.configuration import plain, read_text
from flowbp.evaluate.container import EvaluationContainer, all_shots
from flowbp.evaluate.failing import EvaluateError, reason
from flowbp.evaluate.figures import FIGURES, Kept
from flowbp.evaluate.judging import failure, is_of_sets, judge_pictures, judge_set, stopped
from flowbp.evaluate.loading import resolved
from flowbp.evaluate.pictures import Shot
from flowbp.evaluation import MetricFailure, PictureSet, ScoreRow, Scores, read_png
from flowbp.run.telling import told_progress

_Found = tuple[Shot, Mapping[str, float]]


def measured(container: EvaluationContainer) -> Scores:
    """Have every metric judge every picture, each once.

    Args:
        container: of the evaluation, whose pictures are all there.

    Returns:
        The scores of all models, the first of them the base, and what failed.

    Raises:
        EvaluateError: a metric failed, unless the settings say to report that.
        OSError: a figure cannot be written.

    Example:
        See `flowbp.evaluate.execution.execute`.
    """
    settings = container.settings()
    run = Measurement(container, settings.evaluation.on_failure == "stop")
    values: dict[Shot, dict[str, float]] = {}
    for label in settings.models:
        values |= {shot: {} for shot in chain(*all_shots(container, label))}
    # All at once, so that they share what they read alike.
    metrics = dict(run.built())
    for label, metric in metrics.items():
        find = run.of_sets if is_of_sets(metric) else run.of_pictures
        with told_progress(f"measuring {label}", len(values), unit="picture") as progress:
            for done, (shot, found) in enumerate(find(label, metric), 1):
                values[shot] |= found
                progress(done, len(values))
    rows = [
        ScoreRow(
            model=shot.model,
            number=shot.number,
            seed=shot.seed,
            prompt=shot.prompt.text,
            kind=shot.prompt.kind,
            values=found,
        )
        for shot, found in values.items()
    ]
    return Scores(rows, run.failures)


@attrs.frozen(eq=False)
class Measurement:
    """The metrics of one evaluation at work.

    Args:
        container: of the evaluation.
        stop: whether the first failure stops it; else it goes into `failures`.

    Example:
        See `measured`.
    """

    container: EvaluationContainer
    stop: bool
    failures: list[MetricFailure] = attrs.field(factory=list, init=False)

    def built(self) -> Iterator[tuple[str, Any]]:
        """The metrics by label, but those that cannot be built where that is only reported."""
        for label, component in self.container.settings().metrics.items():
            try:
                yield label, self.container.metric(label, component)
            # Loading runs code of others, and whatever it raises is the metric's failure.
            except Exception as error:
                if self.stop:
                    raise EvaluateError(
                        f"the metric `{label}` cannot be built: {reason(error)}; what is done is "
                        "kept, and --resume goes on; evaluation.on_failure=report goes on without"
                    ) from error
                self.failures.append(MetricFailure(metric=label, message=reason(error)))

    def of_pictures(self, label: str, metric: Any) -> Iterator[_Found]:
        """Every picture with its values, judged in batches or read from what is kept."""
        settings = self.container.settings()
        folder, batch = settings.evaluation.folder, settings.evaluation.batch
        tree = plain(read_text(resolved(settings), "the settings"))["metrics"][label]
        for model in settings.models:
            kept = Kept(folder / FIGURES / label / f"{model}.jsonl", tree)
            there = kept.begin()
            for shots in all_shots(self.container, model):
                for start in range(0, len(shots), batch):
                    chosen = shots[start : start + batch]
                    contents = [shot.path(folder).read_bytes() for shot in chosen]
                    keys = list(map(kept.key, chosen, contents))
                    # A batch is judged whole, so that figures round as they would in one go.
                    if not all(key in there for key in keys):
                        images = torch.stack([read_png(content)[0] for content in contents])
                        found = self._judged(label, metric, images, chosen)
                        new = zip(chosen, contents, keys, strict=True)
                        kept.add(
                            (shot, content, found[shot])
                            for shot, content, key in new
                            if shot in found and key not in there
                        )
                        yield from ((shot, found.get(shot, {})) for shot in chosen)
                    else:
                        yield from zip(chosen, map(there.__getitem__, keys), strict=True)

    def of_sets(self, label: str, metric: Any) -> Iterator[_Found]:
        """Every picture with its values, model by model; nothing is kept of them."""
        settings = self.container.settings()
        base = self._set(next(iter(settings.models)))[1]
        for model in settings.models:
            shots, pictures = self._set(model)
            try:
                found = judge_set(label, metric, pictures, base, shots)
            # As above: a metric is code of others.
            except Exception as error:
                if self.stop:
                    raise stopped(label, shots, error) from error
                self.failures.append(
                    MetricFailure(metric=label, message=reason(error), model=model)
                )
                found = [{}] * len(shots)
            yield from zip(shots, found, strict=True)

    def _judged(
        self, label: str, metric: Any, images: Tensor, shots: Sequence[Shot]
    ) -> dict[Shot, Mapping[str, float]]:
        images = images.to(self.container.device())
        try:
            return dict(zip(shots, judge_pictures(label, metric, images, shots), strict=True))
        # As above; what it was at is found by asking for each picture alone.
        except Exception as error:
            together = error
        found: dict[Shot, Mapping[str, float]] = {}
        for image, shot in zip(images, shots, strict=True):
            try:
                found[shot] = judge_pictures(label, metric, image[None], [shot])[0]
            except Exception as error:
                if self.stop:
                    raise stopped(label, [shot], error) from error
                self.failures.append(failure(label, shot, error))
        if self.stop:
            raise stopped(label, shots, together) from together
        return found

    def _set(self, model: str) -> tuple[list[Shot], PictureSet]:
        folder = self.container.settings().evaluation.folder
        shots = list(chain(*all_shots(self.container, model)))
        device = self.container.device()
        return shots, PictureSet(
            label=model,
            prompts=[shot.prompt for shot in shots],
            numbers=[shot.number for shot in shots],
            seeds=[shot.seed for shot in shots],
            pictures=_Files(folder, shots, lambda image: image.to(device)),
        )


@attrs.frozen
class _Files(Sequence[Tensor]):
    """Pictures that are read when they are asked for."""

    folder: Path
    shots: Sequence[Shot]
    place: Callable[[Tensor], Tensor]

    def __len__(self) -> int:
        return len(self.shots)

    def __getitem__(self, number: Any) -> Any:
        return self.place(read_png(self.shots[number].path(self.folder).read_bytes())[0])
