"""What changes while a run goes on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import nn

from flowbp.component_errors import shown, wrong
from flowbp.training.early_stop import HeldOutMetrics
from flowbp.training.ema import Averaging, MovingAverage
from flowbp.training.metrics import Metrics
from flowbp.training.optimization import OptimizerRecipe
from flowbp.training.prompts import PromptFeed, PromptSource
from flowbp.training.randomness import Streams, generator_states
from flowbp.training.step import TrainingStep


@attrs.define(kw_only=True, eq=False)
class RunState:
    """Where a run is.

    Args:
        step: that is run, in the portions that it has come to.
        parameters: that are trained, by name.
        optimizer: of them.
        average: of them, if the run averages.
        streams: of random numbers.
        prompts: the training prompts to come.
        rows: the metrics of the steps that are finished.
        mark: where prompts and generators were after the last finished step; an interrupted step
            has moved them on.
        updating: whether the parameters are being changed; after an error then, whether they
            belong to two steps.
        checkpoint: the newest checkpoint and the step after which it was saved.
        frozen: the fingerprint of what is not trained; empty where nothing is saved or resumed.
        evaluations: on held-out prompts, the first of the run first.
        best: the step whose evaluation was best, by what may end the run; None if nothing may.
        lowered: whether the step's portions became smaller for want of memory.
    """

    step: TrainingStep
    parameters: Mapping[str, nn.Parameter]
    optimizer: torch.optim.Optimizer
    average: MovingAverage | None
    streams: Streams
    prompts: PromptFeed
    rows: list[Metrics] = attrs.field(factory=list)
    mark: Mapping[str, Any] = attrs.field(init=False)
    updating: bool = False
    checkpoint: tuple[int, Path] | None = None
    frozen: str = ""
    evaluations: list[HeldOutMetrics] = attrs.field(factory=list)
    best: int | None = None
    lowered: bool = False

    def __attrs_post_init__(self) -> None:
        """Mark the start."""
        self.set_mark()

    @property
    def device(self) -> torch.device:
        """That the run is on."""
        return self.step.backbone.device

    @property
    def done(self) -> int:
        """Optimizer steps that are finished."""
        return len(self.rows)

    def set_mark(self) -> None:
        """Remember where prompts and generators are now."""
        self.mark = {
            "prompts": self.prompts.position(),
            "streams": self.streams.states(),
            "torch": generator_states(self.device),
        }

    @classmethod
    def at_start(
        cls,
        step: TrainingStep,
        prompts: PromptSource,
        optimizer: OptimizerRecipe,
        averaging: Averaging | None,
        *,
        seed: int,
    ) -> RunState:
        """The state of a run that has done nothing yet."""
        streams, parameters = Streams.of(seed), step.backbone.trainable()
        built = optimizer.build(parameters.values())
        if not isinstance(built, torch.optim.Optimizer):
            must = "must build a torch.optim.Optimizer"
            raise wrong("optimizer", optimizer, f"{must}, got {shown(built)}")
        run = cls(
            step=step,
            parameters=parameters,
            optimizer=built,
            average=averaging.of(parameters) if averaging else None,
            streams=streams,
            prompts=PromptFeed(prompts, streams.prompts),
        )
        run.optimizer.zero_grad(set_to_none=True)
        return run
