"""What changes while a run goes on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import attrs
import torch
from torch import nn

from flowbp.training.ema import MovingAverage
from flowbp.training.randomness import Streams


@attrs.define(kw_only=True, eq=False)
class RunState:
    """Where a run is.

    Args:
        parameters: that are trained, by name.
        optimizer: of them.
        average: of them, if the run averages.
        streams: of random numbers.
        prompts: the training prompts to come.
        done: optimizer steps that are finished.
        updating: whether the parameters are being changed; after an error then, whether they
            belong to two steps.
        checkpoint: the newest checkpoint and the step after which it was saved.
    """

    parameters: Mapping[str, nn.Parameter]
    optimizer: torch.optim.Optimizer
    average: MovingAverage | None
    streams: Streams
    prompts: Iterator[str]
    done: int = 0
    updating: bool = False
    checkpoint: tuple[int, Path] | None = None
