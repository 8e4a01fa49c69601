"""The evaluation inside a run: metrics of the model as it is now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast

import attrs
from torch import Tensor

from flowbp.evaluation.before_after import ACCURACY
from flowbp.evaluation.held_out import HeldOut, evaluate
from flowbp.evaluation.metric import Judge, Metric, PictureSet, Scale, SetMetric, is_of_sets
from flowbp.evaluation.metric_runner import OnDevice, columns_of_pictures, columns_of_set
from flowbp.evaluation.sampling import Sampling, generate
from flowbp.evaluation.scoring import WHOLE
from flowbp.evaluation.validators import not_empty
from flowbp.memory_errors import is_out_of_memory

if TYPE_CHECKING:
    from flowbp.adapters.backbone import Backbone
    from flowbp.rewards.reward import Reward


@attrs.frozen(kw_only=True, eq=False)
class HeldOutMeasure:
    """Samples held-out prompts from the same noise each time, and scores each of them.

    Its metrics are `reward`, `parts.<name>` of a composed reward, `accuracy` where there is a
    judge, and the columns of the metrics, NaN for a picture that a metric does not judge. A column
    that a metric's `totals` name is left out if it judges none of these prompts; any other must
    judge a picture. Metrics of sets compare with the pictures of the first call, or of `begin`.
    """

    backbone: Backbone
    reward: Reward
    judge: Judge | None = None
    metrics: Mapping[str, Metric | SetMetric] = attrs.field(factory=dict)
    prompts: Sequence[HeldOut] = attrs.field(validator=not_empty)
    sampling: Sampling
    noise_seed: int = 0
    _first: list[PictureSet] = attrs.field(factory=list, init=False, repr=False)

    def begin(self) -> None:
        """Take the model as it is now for the base; before a resumed run loads its weights."""
        if self._compares:
            texts = [prompt.text for prompt in self.prompts]
            images = generate(self.backbone, texts, self.noise_seed, self.sampling)
            self._first[:] = [self._set("before training", images)]

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
        said = (getattr(metric, "scales", {}) for metric in self.metrics.values())
        return {name: scale for own in said for name, scale in own.items()}

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
            return _judging(columns, getattr(metric, "totals", {}))
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


def _judging(
    columns: Mapping[str, Tensor], totals: Mapping[str, Sequence[str]]
) -> dict[str, tuple[float, ...]]:
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
