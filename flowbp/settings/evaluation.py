"""The sections of a run's YAML on held-out prompts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from flowbp.adapters import Grid
from flowbp.configuration import Component
from flowbp.core._validators import integer, real
from flowbp.evaluation import Metric
from flowbp.limits import BATCH, COUNT, GRID, SEED, STEPS, labels
from flowbp.settings.prompts import HeldOutSource
from flowbp.training import EarlyStop

# Untyped, because mypy takes the type of a field from its default alone.
_optional: Any = attrs.validators.optional


@attrs.frozen(kw_only=True)
class EvaluationSettings:
    """What is sampled before and after training, from the same noise.

    Args:
        prompts: held out of training.
        noise_seed: of the noise; independent of the run's seed, so that runs can be compared.
        batch: prompts sampled together; it changes memory and speed only.
        steps: Euler steps; those of `sampling` if null.
        guidance: scale of guidance; that of `sampling` if null.
        grid: sigmas of the steps; that of `sampling` if null.
        every: optimizer steps from one evaluation inside the run to the next, besides one before
            training and one at the end; null has none.
        count: how many of the prompts those inside the run take, each kind by its share; all if
            null.
        metrics: what those inside the run measure besides, by label; the run does not train on it.
            One that a file gives is taken away by null.

    Raises:
        ValueError: a number is out of range, or a label is no plain word.

    Example:
        >>> from flowbp.settings import ShapesHeldOut
        >>> EvaluationSettings(prompts=ShapesHeldOut(12)).batch
        16
    """

    prompts: HeldOutSource
    noise_seed: int = attrs.field(default=0, validator=integer(0, SEED))
    batch: int = attrs.field(default=16, validator=integer(1, BATCH))
    steps: int | None = attrs.field(default=None, validator=_optional(integer(1, GRID)))
    guidance: float | None = attrs.field(default=None, validator=_optional(real(float("-inf"))))
    grid: Grid | None = None
    every: int | None = attrs.field(default=None, validator=_optional(integer(1, STEPS)))
    count: int | None = attrs.field(default=None, validator=_optional(integer(1, COUNT)))
    metrics: Mapping[str, Component[Metric]] = attrs.field(factory=dict, validator=labels())


@attrs.frozen(kw_only=True)
class EarlyStopSettings:
    """Ends the run when a held-out figure does not get better any more.

    Higher is better, unless the metric says by its `scales` that less is; of a figure of which
    neither is there is no best, and it is refused.

    The checkpoint of its best evaluation stays, as `checkpoints/best-<step>` or `final`.

    Args:
        metric: `reward`, `accuracy` (the judge's) or a column of one of `evaluation.metrics`, for a
            reward its label.
        every: optimizer steps from one evaluation to the next; `evaluation.every` if null.
        patience: evaluations in a row without a rise after which the run ends.
        min_delta: how much above the last rise is one.

    Raises:
        ValueError: a number is out of range, or `metric` is blank.

    Example:
        >>> EarlyStopSettings(metric="accuracy", every=25).rule
        EarlyStop(metric='accuracy', patience=3, min_delta=0.0)
    """

    metric: str
    every: int | None = attrs.field(default=None, validator=_optional(integer(1, STEPS)))
    patience: int = 3
    min_delta: float = 0.0

    def __attrs_post_init__(self) -> None:
        """Refuse what the rule would."""
        _ = self.rule

    @property
    def rule(self) -> EarlyStop:
        """The rule that ends the run."""
        return EarlyStop(metric=self.metric, patience=self.patience, min_delta=self.min_delta)
