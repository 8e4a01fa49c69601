"""What changes while a run goes on."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import attrs
import torch
from torch import Tensor, nn

from flowbp.component_errors import shown, wrong
from flowbp.training.ema import Average, Averaging, OptimizerAverage
from flowbp.training.metrics import HeldOutMetrics, Metrics
from flowbp.training.optimization import OptimizerRecipe
from flowbp.training.optimizer_classes import has_modes
from flowbp.training.prompts import Position, PromptFeed, PromptSource
from flowbp.training.randomness import Streams, generator_states
from flowbp.training.step import TrainingStep


@attrs.frozen(kw_only=True, eq=False)
class Mark:
    """Where prompts and random generators are."""

    prompts: Position
    streams: Mapping[str, Tensor]
    torch: Mapping[str, Tensor]


@attrs.define(kw_only=True, eq=False)
class RunState:
    """Where a run is."""

    # In the portions that it has come to.
    step: TrainingStep
    parameters: Mapping[str, nn.Parameter]
    optimizer: torch.optim.Optimizer
    average: Average | None
    streams: Streams
    prompts: PromptFeed
    # Of the steps that are finished.
    rows: list[Metrics] = attrs.field(factory=list)
    # After the last finished step; an interrupted step has moved prompts and generators on.
    mark: Mark = attrs.field(init=False)
    # Whether the parameters are being changed; after an error, whether they belong to two steps.
    updating: bool = False
    # The newest, and the step after which it was saved.
    checkpoint: tuple[int, Path] | None = None
    # The fingerprint of what is not trained; empty where nothing is saved or resumed.
    frozen: str = ""
    evaluations: list[HeldOutMetrics] = attrs.field(factory=list)
    # The step whose evaluation was best, by what may end the run; None if nothing may.
    best: int | None = None
    # Whether the step's portions became smaller for want of memory.
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
        self.mark = Mark(
            prompts=self.prompts.position(),
            streams=self.streams.states(),
            torch=generator_states(self.device),
        )

    def averaged(self) -> AbstractContextManager[None]:
        """Run a block under the weights that one would use: the averages, if the run averages."""
        return nullcontext() if self.average is None else self.average.swapped()

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
        built.zero_grad(set_to_none=True)
        average: Average | None = averaging.of(parameters) if averaging else None
        if average is None and has_modes(built):
            average = OptimizerAverage(parameters, built)
        return cls(
            step=step,
            parameters=parameters,
            optimizer=built,
            average=average,
            streams=streams,
            prompts=PromptFeed(prompts, streams.prompts),
        )
