"""A step whose gradient is zero is told, once."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from flowbp.core import LossShape
from flowbp.digits import written
from flowbp.training.metrics import Metrics


class NoGradientWarning(UserWarning):
    """A step's gradient is exactly zero, as where every reward lies above a hinge's target."""


def warn_of_no_gradient(rows: Sequence[Metrics], shape: LossShape) -> None:
    """Warn at the first step whose gradient is zero: the reward pushes nothing.

    Args:
        rows: of the steps that are done, one at least; the last is looked at.
        shape: makes a loss of each reward.

    Warns:
        NoGradientWarning: the step, its reward and loss, and what to change.

    Example:
        >>> from flowbp.core import Hinge
        >>> row = Metrics(step=1, reward=22.5, reward_std=0.1, loss=0.0, gradient_norm=0.0,
        ...               learning_rate=1e-5, residual_0=0.0, residual_1=None, velocity_calls=9,
        ...               seconds=2.0)
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warn_of_no_gradient([row], Hinge(0.55))
        >>> print(str(caught[0].message).split("; ")[0])
        step 1 has no gradient: its mean reward is 22.50, its loss under Hinge(target=0.55) 0
    """
    last = rows[-1]
    if last.gradient_norm != 0.0 or any(row.gradient_norm == 0.0 for row in rows[:-1]):
        return
    reward, loss = written(last.reward, 4), written(last.loss, 4)
    warnings.warn(
        f"step {last.step} has no gradient: its mean reward is {reward}, its loss under {shape} "
        f"{loss}; nothing is trained while that lasts. A hinge pushes no sample "
        "that scores its target: give `loss` a target in this reward's units, or take "
        "{name: linear}; otherwise the reward does not depend on the pictures",
        NoGradientWarning,
        stacklevel=2,
    )
