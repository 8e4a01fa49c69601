"""Evaluations of held-out prompts: before and after training, and inside a run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import cast

import attrs
import torch
from torch import Tensor

from flowbp.adapters.backbone import Backbone
from flowbp.evaluation.comparison import ACCURACY, Evaluation
from flowbp.evaluation.held_out_prompts import HeldOut
from flowbp.evaluation.metric import Judge, Metric, PictureSet, Scale, SetMetric, is_of_sets
from flowbp.evaluation.metric_runner import OnDevice, columns_of_pictures, columns_of_set
from flowbp.evaluation.reward_metrics import WHOLE, judged, rewarded
from flowbp.evaluation.sampling import (
    Progress,
    Sampling,
    Sharers,
    generate,
    scored_batches,
    take_part,
)
from flowbp.evaluation.scores import ScoreRow
from flowbp.memory_errors import is_out_of_memory
from flowbp.rank_errors import RanksDifferError
from flowbp.rewards.reward import Reward
from flowbp.validators import not_empty


def evaluate(
    backbone: Backbone,
    reward: Reward,
    judge: Judge | None,
    prompts: Sequence[HeldOut],
    *,
    sampling: Sampling,
    noise_seed: int,
    label: str,
    progress: Progress | None = None,
    ranks: Sharers | None = None,
) -> tuple[Evaluation, Tensor]:
    """Sample one picture per prompt, score it, and have it judged; pictures are (n, 3, H, W).

    Of several processes the first gets the evaluation; the others call `take_part` with the same
    prompts, sampling and `scoring`.
    """
    texts = [prompt.text for prompt in prompts]
    rows: list[ScoreRow] = []
    images = []
    start = time.perf_counter()
    score = scoring(texts, reward, judge)
    for chosen, batch, scored in scored_batches(
        backbone, texts, noise_seed, sampling, score, ranks=ranks
    ):
        columns = {name: values.tolist() for name, values in scored.items()}
        for place, number in enumerate(range(chosen.start, chosen.stop)):
            rows.append(
                ScoreRow(
                    model=label,
                    number=number,
                    seed=noise_seed,
                    prompt=texts[number],
                    kind=prompts[number].kind,
                    values={name: values[place] for name, values in columns.items()},
                )
            )
        images.append(batch.cpu())
        if progress is not None:
            progress(chosen.stop, len(texts))
    evaluation = Evaluation(
        label=label,
        noise_seed=noise_seed,
        seconds=time.perf_counter() - start,
        judged=judge is not None,
        rows=rows,
    )
    return evaluation, torch.cat(images)


def scoring(
    texts: Sequence[str], reward: Reward, judge: Judge | None
) -> Callable[[slice, Tensor], Mapping[str, Tensor]]:
    """What an evaluation has of a batch: the reward, its parts, and the judge's verdicts."""

    def score(chosen: slice, images: Tensor) -> Mapping[str, Tensor]:
        own = texts[chosen]
        scored = rewarded(images, own, reward)
        if judge is None:
            return scored
        if ACCURACY in scored:
            raise ValueError(
                f"`{ACCURACY}` is a part of the reward and the judge's verdict; rename the part"
            )
        return {ACCURACY: judged(images, own, judge), **scored}

    return score


@attrs.frozen(kw_only=True, eq=False)
class HeldOutMeasure:
    """Samples held-out prompts from the same noise each time, and scores each of them.

    Its metrics are `reward`, `parts.<name>` of a composed reward, `accuracy` where there is a
    judge, and the columns of the metrics, NaN for a picture that a metric does not judge. A column
    that a metric's `totals` name is left out if it judges none of these prompts; any other must
    judge a picture. Metrics of sets compare with the pictures of the first call, or of `begin`.

    Of several processes each scores and judges what it has sampled, and has the same reward, judge
    and metrics for that; the others call `take_part` where the first one evaluates. Metrics of sets
    are called on the first alone, which has all pictures.
    """

    backbone: Backbone
    reward: Reward
    judge: Judge | None = None
    metrics: Mapping[str, Metric | SetMetric] = attrs.field(factory=dict)
    prompts: Sequence[HeldOut] = attrs.field(validator=not_empty)
    sampling: Sampling
    noise_seed: int = 0
    ranks: Sharers | None = None
    _first: list[PictureSet] = attrs.field(factory=list, init=False, repr=False)

    def begin(self) -> None:
        """Take the model as it is now for the base; before a resumed run loads its weights."""
        compares = self._compares
        parts = (self.backbone, self._texts, self.noise_seed, self.sampling)
        if self.ranks is not None:
            compares = self.ranks.exchange(compares)[0]
            if compares and self.ranks.rank:
                take_part(*parts, self.ranks)
                return
        if compares:
            images = generate(*parts, ranks=self.ranks)
            self._first[:] = [self._set("before training", images)]

    def take_part(self) -> None:
        """Evaluate what falls to another process than the first, which gets the results."""
        if self.ranks is None:
            return
        self._refuse_other_scores(self.ranks)
        texts, own = self._texts, dict[int, Tensor]()
        score = scoring(texts, self.reward, self.judge)

        def scored(chosen: slice, images: Tensor) -> Mapping[str, Tensor]:
            own.update(zip(range(chosen.start, chosen.stop), images.cpu(), strict=True))
            return score(chosen, images)

        take_part(self.backbone, texts, self.noise_seed, self.sampling, self.ranks, score=scored)
        pictures = OnDevice(own, self.backbone.device)
        for label, metric in self._of_pictures.items():
            with _naming(label):
                self._judged(label, metric, pictures)

    def __call__(self) -> dict[str, tuple[float, ...]]:
        """Evaluate."""
        if self.ranks is not None:
            self._refuse_other_scores(self.ranks)
        found, images = evaluate(
            self.backbone,
            self.reward,
            self.judge,
            self.prompts,
            sampling=self.sampling,
            noise_seed=self.noise_seed,
            label="mid-run",
            ranks=self.ranks,
        )
        columns = {WHOLE: WHOLE, **{part: f"parts.{part}" for part in found.parts}}
        if found.judged:
            columns[ACCURACY] = ACCURACY
        values_by_name = {
            name: tuple(row.values[column] for row in found.rows)
            for column, name in columns.items()
        }
        own = self._set("now", images)
        if self._compares and not self._first:
            self._first.append(own)
        for label, metric in self.metrics.items():
            for name, value in self._measured(label, metric, own).items():
                if name in values_by_name or name == "step":
                    raise ValueError(f"`{name}` is the name of two metrics; give one another label")
                values_by_name[name] = value
        return values_by_name

    @property
    def scales(self) -> Mapping[str, Scale]:
        """What the columns of metrics mean; of others, more is better."""
        declared = (getattr(metric, "scales", {}) for metric in self.metrics.values())
        return {name: scale for own in declared for name, scale in own.items()}

    @property
    def _texts(self) -> list[str]:
        return [prompt.text for prompt in self.prompts]

    @property
    def _compares(self) -> bool:
        return any(map(is_of_sets, self.metrics.values()))

    @property
    def _of_pictures(self) -> Mapping[str, Metric]:
        """The metrics that judge single pictures."""
        return {n: cast(Metric, each) for n, each in self.metrics.items() if not is_of_sets(each)}

    def _refuse_other_scores(self, ranks: Sharers) -> None:
        """Refuse that another process scores something else, and would not meet this one."""
        own = [*(["the judge"] if self.judge else []), *map(repr, self._of_pictures)]
        first, *others = ranks.exchange(own)
        for rank, theirs in enumerate(others, 1):
            if theirs != first:
                raise RanksDifferError(
                    f"rank {rank} evaluates by {', '.join(theirs) or 'the reward alone'}, and rank "
                    f"0 by {', '.join(first) or 'the reward alone'}; give every process the same "
                    "judge and the same metrics, in the same order"
                )

    def _measured(
        self, label: str, metric: Metric | SetMetric, own: PictureSet
    ) -> Mapping[str, tuple[float, ...]]:
        with _naming(label):
            if is_of_sets(metric):
                of_set = cast(SetMetric, metric)
                columns = columns_of_set(of_set, own, self._first[0], label=label)
            else:
                columns = self._judged(label, cast(Metric, metric), own.pictures)
            return _with_values(columns, getattr(metric, "totals", {}))

    def _judged(
        self, label: str, metric: Metric, pictures: Sequence[Tensor] | Tensor
    ) -> dict[str, Tensor]:
        return columns_of_pictures(
            metric,
            pictures,
            self.prompts,
            batch=self.sampling.batch,
            label=label,
            ranks=self.ranks,
        )

    def _set(self, label: str, images: Tensor) -> PictureSet:
        return PictureSet(
            label=label,
            prompts=self.prompts,
            numbers=range(len(images)),
            seeds=[self.noise_seed] * len(images),
            pictures=OnDevice(images, self.backbone.device),
        )


@contextmanager
def _naming(label: str) -> Iterator[None]:
    """Name the metric that an error is of."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"the metric {label!r}: {error}") from error
    except Exception as error:
        if is_out_of_memory(error):
            error.add_note(f"it was the metric {label!r}, in an evaluation inside the run")
        raise


def _with_values(
    columns: Mapping[str, Tensor], totals: Mapping[str, Sequence[str]]
) -> dict[str, tuple[float, ...]]:
    """The columns that judge a picture; only those of a total may judge none."""
    optional = {name for total in totals.values() for name in total}
    empty = [name for name, values in columns.items() if values.isnan().all()]
    needed = [name for name in empty if name not in optional]
    if needed or (empty and len(empty) == len(columns)):
        name = (needed or empty)[0]
        raise ValueError(
            f"`{name}` judges none of the {len(columns[name])} held-out pictures; raise "
            "evaluation.count, or hold out prompts that it can judge"
        )
    return {name: tuple(v.tolist()) for name, v in columns.items() if name not in empty}
