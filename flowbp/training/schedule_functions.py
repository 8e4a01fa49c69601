"""Learning-rate schedules of transformers, named as there and given their own arguments."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import attrs
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from flowbp.training.optimizer_classes import with_defaults

SUPPLIED = frozenset({"optimizer", "num_training_steps", "last_epoch"})
"""The arguments of a function that a run gives."""

_WARMUP = "num_warmup_steps"


@attrs.frozen
class ScheduleFunction:
    """A function that makes a `LambdaLR` of an optimizer, with arguments under its own names.

    It is asked for the factor of each step, and keeps no state of its own.

    Args:
        target: such as `transformers.get_polynomial_decay_schedule_with_warmup`.
        arguments: by name; the others have the defaults of the function.

    Example:
        >>> from transformers import get_linear_schedule_with_warmup
        >>> schedule = ScheduleFunction(get_linear_schedule_with_warmup, {"num_warmup_steps": 2})
        >>> [schedule.factor(step, 6, 1e-3) for step in range(6)]
        [0.0, 0.5, 1.0, 0.75, 0.5, 0.25]
    """

    target: Callable[..., Any]
    arguments: Mapping[str, Any] = attrs.field(factory=dict, eq=False)
    # Two are equal whether an argument is given or the default.
    _in_effect: Mapping[str, Any] = attrs.field(init=False, repr=False)
    _made: dict[tuple[int, float], Callable[[int], float]] = attrs.field(
        factory=dict, init=False, eq=False, repr=False
    )

    @_in_effect.default
    def _arguments_and_defaults(self) -> Mapping[str, Any]:
        return with_defaults(self.target, self.arguments)

    def factor(self, step: int, total: int, rate: float) -> float:
        """What the function's `LambdaLR` multiplies the rate with at a step."""
        if (total, rate) not in self._made:
            self._made[total, rate] = self._lambda(total, rate)
        return float(self._made[total, rate](step))

    def _lambda(self, total: int, rate: float) -> Callable[[int], float]:
        warmup = self.arguments.get(_WARMUP, 0)
        if not 0 <= warmup < total:
            raise ValueError(
                f"`{_WARMUP}` must be in [0, {total - 1}], got {warmup}; the run has {total} "
                "optimizer steps"
            )
        known = inspect.signature(self.target).parameters
        supplied = {"num_training_steps": total} if "num_training_steps" in known else {}
        # Of an optimizer these functions read the rate.
        stand_in = torch.optim.SGD([nn.Parameter(torch.zeros(()))], lr=rate)
        name = getattr(self.target, "__name__", repr(self.target))
        try:
            found = self.target(stand_in, **supplied, **self.arguments)
        except (TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{name} refuses its keys: {error}") from error
        if type(found) is not LambdaLR:
            raise ValueError(
                f"{name} makes a {type(found).__name__}, which is no function of the step; name "
                "one that makes a LambdaLR"
            )
        made: Callable[[int], float] = found.lr_lambdas[0]
        return made


def is_schedule_function(target: Any) -> bool:
    """Whether a target is a function of an optimizer, as those of transformers are."""
    if not inspect.isfunction(target):
        return False
    return next(iter(inspect.signature(target).parameters), None) == "optimizer"
