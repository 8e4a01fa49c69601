"""The evaluation inside a run: a few figures of the model as it is now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar, cast

import attrs
from torch import Tensor

from flowbp.evaluation.evaluate import HeldOut, Judge, evaluate
from flowbp.evaluation.generate import Sampling, generate
from flowbp.evaluation.interval_metrics import OnDevice, columns_of_pictures, columns_of_set
from flowbp.evaluation.metric import Metric
from flowbp.evaluation.scale import Scale
from flowbp.evaluation.set_metric import PictureSet, SetMetric, is_of_sets
from flowbp.evaluation.validators import not_empty
from flowbp.short_memory import is_short_memory

if TYPE_CHECKING:
    from flowbp.adapters.backbone import Backbone
    from flowbp.rewards.reward import Reward

_Prompt = TypeVar("_Prompt", bound=HeldOut)


def spread(prompts: Sequence[_Prompt], count: int | None) -> tuple[_Prompt, ...]:
    """Choose prompts evenly over the list, each kind by its share of it.

    Args:
        prompts: all of them.
        count: how many; all if None.

    Returns:
        The chosen ones in the order of the list.

    Raises:
        ValueError: fewer than one, or more than there are.

    Example:
        >>> from flowbp.evaluation.evaluate import HeldOutPrompt
        >>> prompts = [HeldOutPrompt(str(i), kind) for i, kind in enumerate("aaaabb")]
        >>> [prompt.text for prompt in spread(prompts, 3)]
        ['1', '3', '5']
    """
    if count is None:
        return tuple(prompts)
    if not 1 <= count <= len(prompts):
        raise ValueError(f"`count` must be in [1, {len(prompts)}], got {count}")
    order = {kind: place for place, kind in enumerate(dict.fromkeys(p.kind for p in prompts))}
    # By kind first: where kinds take turns, even spacing over the list could meet one kind only.
    by_kind = sorted(range(len(prompts)), key=lambda i: (order[prompts[i].kind], i))
    chosen = sorted(by_kind[(2 * i + 1) * len(prompts) // (2 * count)] for i in range(count))
    return tuple(prompts[i] for i in chosen)


@attrs.frozen(kw_only=True, eq=False)
class HeldOutMeasure:
    """Samples held-out prompts from the same noise each time, and tells what each of them scores.

    Its figures are `reward`, `parts.<name>` of a composed reward, `accuracy` where there is a
    judge, and the columns of the metrics, NaN for a picture that a metric does not judge. A column
    that a metric's `totals` name may be of prompts that are not held out; it is then left out. Any
    other must judge a picture.
    What metrics of sets compare with are the pictures of the first call, or of `begin`.

    Args:
        backbone: the model.
        reward: that is trained on.
        judge: the held-out verdict; None when there is none.
        metrics: besides, of pictures or of sets, by the label that names them in errors.
        prompts: what to sample.
        sampling: steps, size, guidance and batch size.
        noise_seed: seed of the noise.

    Raises:
        ValueError: there are no prompts.

    Example:
        >>> import torch
        >>> from types import SimpleNamespace
        >>> from flowbp.evaluation import HeldOutPrompt, RewardMetric
        >>> toy = SimpleNamespace(
        ...     module=torch.nn.Identity(),
        ...     device=torch.device("cpu"),
        ...     encode=lambda prompts: torch.zeros(len(prompts), 1),
        ...     noise=lambda count, *, height, width, generator: torch.zeros(
        ...         count, 3, height, width
        ...     ),
        ...     sigmas=lambda steps, *, height, width: torch.linspace(1, 0, steps + 1),
        ...     velocity=lambda conditioning: lambda latents, sigma: latents,
        ...     decode=torch.sigmoid,
        ... )
        >>> measure = HeldOutMeasure(
        ...     backbone=toy,
        ...     reward=lambda images, prompts: images.mean((1, 2, 3)),
        ...     judge=lambda images, prompts: torch.ones(len(images)),
        ...     metrics={
        ...         "dark": RewardMetric("dark", lambda images, prompts: -images.mean((1, 2, 3)))
        ...     },
        ...     prompts=[HeldOutPrompt("a circle")],
        ...     sampling=Sampling(steps=2, height=4, width=4),
        ... )
        >>> measure()
        {'reward': (0.5,), 'accuracy': (1.0,), 'dark': (-0.5,)}
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
        """Take the model as it is now for the one that others are compared with.

        A run that goes on calls it before its checkpoint is loaded. It samples the prompts if any
        metric is of sets.

        Raises:
            ValueError: as the backbone does.
        """
        if self._compares:
            texts = [prompt.text for prompt in self.prompts]
            images = generate(self.backbone, texts, self.noise_seed, self.sampling)
            self._first[:] = [self._set("before training", images)]

    def __call__(self) -> dict[str, tuple[float, ...]]:
        """Evaluate.

        Returns:
            The figures, a number for each prompt; their mean is over those that are not NaN.

        Raises:
            ValueError: a score is not finite or has the wrong shape, a metric fails, a column that
                is not of a total or all of those that are judge none of the pictures, or two
                metrics have a column of one name.
            OutOfMemoryError: the device's; its notes name the metric, if it is one.
        """
        found, images = evaluate(
            self.backbone,
            self.reward,
            self.judge,
            self.prompts,
            sampling=self.sampling,
            noise_seed=self.noise_seed,
            label="interval",
        )
        records = found.records
        figures = {"reward": tuple(record.reward for record in records)}
        for name in found.parts:
            figures[f"parts.{name}"] = tuple(record.parts[name] for record in records)
        if found.judged:
            figures["accuracy"] = tuple(float(bool(record.passed)) for record in records)
        own = self._set("now", images)
        if self._compares and not self._first:
            self._first.append(own)
        for label, metric in self.metrics.items():
            for name, value in self._measured(label, metric, own).items():
                if name in figures or name == "step":
                    raise ValueError(f"`{name}` is the name of two figures; give one another label")
                figures[name] = value
        return figures

    @property
    def scales(self) -> Mapping[str, Scale]:
        """What metrics say of their columns, by these; of other figures more is better."""
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
            if is_short_memory(error):
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
