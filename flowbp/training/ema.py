"""The exponential moving average of the trained parameters."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import attrs
import torch
from torch import Tensor, nn

from flowbp.adapters.sharding import assign
from flowbp.training.hold_signals import uninterrupted
from flowbp.validators import real


@attrs.frozen
class Averaging:
    """How parameters are averaged: `shadow ← d shadow + (1 - d) theta` after each step.

    Args:
        decay: d, the share of the average that each update keeps, in [0, 1).
        warmup: use `min(decay, (1 + t) / (10 + t))` at update t, counted from 0. A short run needs
            it: with decay 0.995 and no warm-up, the starting weights still make up 60 % of the
            average after 100 steps.

    Reference: Polyak and Juditsky 1992; the warm-up is that of TensorFlow's
    `ExponentialMovingAverage`.
    """

    decay: float = attrs.field(default=0.995, validator=real(0, 1))
    warmup: bool = attrs.field(default=False, validator=attrs.validators.instance_of(bool))

    def __attrs_post_init__(self) -> None:
        """Refuse an average that never moves."""
        if self.decay == 1:
            raise ValueError(
                "`decay` must be below 1, got 1; the average would stay at the starting weights"
            )

    def decay_at(self, update: int) -> float:
        """The decay of update `update`, counted from 0."""
        return min(self.decay, (1 + update) / (10 + update)) if self.warmup else self.decay

    def start_share(self, updates: int) -> float:
        """How much of the average the starting weights still make up after some updates."""
        warming = 0
        while warming < updates and self.decay_at(warming) < self.decay:
            warming += 1
        rising = math.prod(map(self.decay_at, range(warming)))
        return float(rising * self.decay ** (updates - warming))

    def of(self, parameters: Mapping[str, nn.Parameter]) -> MovingAverage:
        """An average that starts at these parameters."""
        return MovingAverage(parameters, self)


class Average(Protocol):
    """Averages of the trained parameters by name, `shadow`, after so many `updates`."""

    updates: int

    @property
    def shadow(self) -> Mapping[str, Tensor]:
        """The averages, as they are now."""

    def restore(self, updates: int, shadow: Mapping[str, Tensor]) -> None:
        """Go on from the averages after so many updates."""

    def update(self) -> None:
        """Take in the parameters' present values."""

    def copy_to_parameters(self) -> None:
        """Overwrite the parameters with their averages."""

    def swapped(self) -> AbstractContextManager[None]:
        """Run under the averaged parameters, then restore the present ones bit for bit."""


class MovingAverage:
    """The running average of some parameters, in float32 at least whatever their dtype.

    `shadow` has the averages by name, after so many `updates`.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], averaging: Averaging) -> None:
        self._parameters = dict(parameters)
        self._averaging = averaging
        self.updates = 0
        self.shadow: Mapping[str, Tensor] = {n: _shadow(p) for n, p in self._parameters.items()}

    @torch.no_grad()
    def restore(self, updates: int, shadow: Mapping[str, Tensor]) -> None:
        """Go on from the averages after so many updates."""
        self.updates = updates
        for name, mine in self.shadow.items():
            assign(mine, shadow[name])

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the parameters' present values."""
        share = 1 - self._averaging.decay_at(self.updates)
        for name, parameter in self._parameters.items():
            shadow = self.shadow[name]
            shadow.lerp_(parameter.to(shadow.dtype), share)
        self.updates += 1

    @torch.no_grad()
    def copy_to_parameters(self) -> None:
        """Overwrite the parameters with their averages."""
        for name, parameter in self._parameters.items():
            parameter.copy_(self.shadow[name])

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Run under the averaged parameters, then restore the present ones bit for bit."""
        with _put_back(self._parameters):
            self.copy_to_parameters()
            yield


class OptimizerAverage:
    """The average that an optimizer keeps itself, as Schedule-Free does.

    Its `eval()` overwrites the parameters with it. The way back by its `train()` rounds, so the
    parameters themselves are kept meanwhile.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], optimizer: Any) -> None:
        self._parameters = dict(parameters)
        self._optimizer = optimizer
        self.updates = 0

    @property
    def shadow(self) -> Mapping[str, Tensor]:
        """Copies of the averages."""
        with self.swapped():
            return {name: p.detach().clone() for name, p in self._parameters.items()}

    def restore(self, updates: int, shadow: Mapping[str, Tensor]) -> None:
        """Go on after so many updates; the optimizer's own state has the averages."""
        self.updates = updates

    def update(self) -> None:
        """Count an update, which the optimizer has made."""
        self.updates += 1

    @torch.no_grad()
    def copy_to_parameters(self) -> None:
        """Overwrite the parameters with their averages."""
        self._optimizer.eval()

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Run under the averaged parameters, then restore the present ones bit for bit."""
        with _put_back(self._parameters):
            try:
                self.copy_to_parameters()
                yield
            finally:
                with uninterrupted(), torch.no_grad():
                    self._optimizer.train()


@contextmanager
def _put_back(parameters: Mapping[str, nn.Parameter]) -> Iterator[None]:
    kept = {name: p.detach().clone() for name, p in parameters.items()}
    try:
        yield
    finally:
        with uninterrupted(), torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(kept[name])


def _shadow(parameter: nn.Parameter) -> Tensor:
    dtype = torch.promote_types(parameter.dtype, torch.float32)
    # A copy even where the dtype is already right: the average must not alias the parameter.
    return parameter.detach().to(dtype, copy=True)
