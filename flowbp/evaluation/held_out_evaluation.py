"""Evaluations of held-out prompts: before and after training, and inside a run."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
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
    generate_batches,
    take_part,
)
from flowbp.evaluation.scores import ScoreRow
from flowbp.memory_errors import is_out_of_memory
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

    Of several processes the first evaluates; the others take part in the sampling.
    """
    texts = [prompt.text for prompt in prompts]
    rows: list[ScoreRow] = []
    images = []
    start = time.perf_counter()
    for chosen, batch in generate_batches(backbone, texts, noise_seed, sampling, ranks=ranks):
        scored = _scored(batch, texts[chosen], reward, judge)
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


def _scored(
    images: Tensor, texts: Sequence[str], reward: Reward, judge: Judge | None
) -> Mapping[str, Tensor]:
    scored = rewarded(images, texts, reward)
    if judge is None:
        return scored
    if ACCURACY in scored:
        raise ValueError(
            f"`{ACCURACY}` is a part of the reward and the judge's verdict; rename the part"
        )
    return {ACCURACY: judged(images, texts, judge), **scored}


@attrs.frozen(kw_only=True, eq=False)
class HeldOutMeasure:
    """Samples held-out prompts from the same noise each time, and scores each of them.

    Its metrics are `reward`, `parts.<name>` of a composed reward, `accuracy` where there is a
    judge, and the columns of the metrics, NaN for a picture that a metric does not judge. A column
    that a metric's `totals` name is left out if it judges none of these prompts; any other must
    judge a picture. Metrics of sets compare with the pictures of the first call, or of `begin`.

    Of several processes, the others call `take_part` where the first one evaluates; of a judge and
    metrics they need to have none.
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
        if self.ranks is not None:
            compares = self.ranks.exchange(compares)[0]
            if compares and self.ranks.rank:
                self.take_part()
                return
        if compares:
            parts = (self.backbone, self._texts, self.noise_seed, self.sampling)
            images = generate(*parts, ranks=self.ranks)
            self._first[:] = [self._set("before training", images)]

    def take_part(self) -> None:
        """Sample with the first process, which evaluates."""
        if self.ranks is not None:
            take_part(self.backbone, self._texts, self.noise_seed, self.sampling, self.ranks)

    def __call__(self) -> dict[str, tuple[float, ...]]:
        """Evaluate."""
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

    def _measured(
        self, label: str, metric: Metric | SetMetric, own: PictureSet
    ) -> Mapping[str, tuple[float, ...]]:
        try:
            if is_of_sets(metric):
                of_set = cast(SetMetric, metric)
                columns = columns_of_set(of_set, own, self._first[0], label=label)
            else:
                columns = columns_of_pictures(
                    cast(Metric, metric),
                    own.pictures,
                    own.prompts,
                    batch=self.sampling.batch,
                    label=label,
                )
            return _with_values(columns, getattr(metric, "totals", {}))
        except ValueError as error:
            raise ValueError(f"the metric {label!r}: {error}") from error
        except Exception as error:
            if is_out_of_memory(error):
                error.add_note(f"it was the metric {label!r}, in an evaluation inside the run")
            raise

    def _set(self, label: str, images: Tensor) -> PictureSet:
        return PictureSet(
            label=label,
            prompts=self.prompts,
            numbers=range(len(images)),
            seeds=[self.noise_seed] * len(images),
            pictures=OnDevice(images, self.backbone.device),
        )


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
