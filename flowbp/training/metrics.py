"""The metrics of one optimizer step, fetched from the device in one transfer."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence

import attrs
import torch
from torch import Tensor

from flowbp.core import LossShape
from flowbp.significant_digits import written
from flowbp.training.step import StepResult

QUANTITIES = ("latents", "rewards", "loss", "cotangent", "anchor", "gradients")
"""What must be finite, in the order in which a step computes it."""


class NoGradientWarning(UserWarning):
    """A step's gradient is exactly zero, as where every reward lies above a hinge's target."""


@attrs.frozen(kw_only=True)
class Metrics:
    """The metrics of one optimizer step.

    Args:
        step: its number, from 1.
        reward: mean over the samples, renoised copies left out.
        reward_std: population standard deviation over the same.
        loss: that the gradients belong to, copies included, the anchor's value not.
        gradient_norm: of all gradients together, before clipping.
        learning_rate: that the step used.
        residual_0: mean distance of the plan's first segment from the path; None if undefined.
        residual_1: the same of its second segment.
        velocity_calls: network evaluations for each sample, forward and backward.
        seconds: from the draw of the plan to the end of the update.
        anchor: the value of the reference anchor; None without one.
        parts: means over the same samples of the parts of a composed reward, such as
            `likeness.raw`.
    """

    step: int
    reward: float
    reward_std: float
    loss: float
    gradient_norm: float
    learning_rate: float
    residual_0: float | None
    residual_1: float | None
    velocity_calls: int
    seconds: float
    anchor: float | None = None
    parts: Mapping[str, float] = attrs.field(factory=dict)


def metrics_row(metrics: Metrics) -> dict[str, float | None]:
    """The metrics by their names in files and charts; `parts.<name>` come last."""
    row = attrs.asdict(metrics)
    parts = row.pop("parts")
    return row | {f"parts.{name}": value for name, value in parts.items()}


def measure(
    result: StepResult, gradient_norm: Tensor, *, step: int, learning_rate: float
) -> tuple[Metrics, str | None]:
    """Fetch a step's metrics: the only time that the host waits for the device.

    Returns:
        The metrics, without `seconds` as yet, and the first of `QUANTITIES` that is not finite.
    """
    rewards, scores = result.rewards, result.scores
    anchor = rewards.new_zeros(()) if result.anchor is None else result.anchor
    checked = (result.latents, scores.rewards, result.loss, scores.cotangent, anchor, gradient_norm)
    gaps = [gap.mean() for gap in result.residuals[:2]]
    means = [rewards.mean(), rewards.std(correction=0), result.loss, gradient_norm, anchor, *gaps]
    flags = [torch.isfinite(value).all() for value in checked]
    parts = {name: values.mean() for name, values in result.parts.items()}
    wanted = (*means, *flags, *parts.values())
    fetched = torch.stack([value.to(rewards.device, torch.float32) for value in wanted])
    reward, spread, loss, norm, distance, *rest = fetched.tolist()
    residuals = [gap if math.isfinite(gap) else None for gap in rest[: len(gaps)]]
    first, second = (*residuals, None, None)[:2]
    finite, of_parts = rest[len(gaps) :][: len(flags)], rest[len(gaps) + len(flags) :]
    metrics = Metrics(
        step=step,
        reward=reward,
        reward_std=spread,
        loss=loss,
        gradient_norm=norm,
        learning_rate=learning_rate,
        residual_0=first,
        residual_1=second,
        velocity_calls=result.cost.velocity_calls,
        seconds=0.0,
        anchor=None if result.anchor is None else distance,
        parts=dict(zip(parts, of_parts, strict=True)),
    )
    broken = (name for name, fine in zip(QUANTITIES, finite, strict=True) if not fine)
    return metrics, next(broken, None)


def warn_of_no_gradient(rows: Sequence[Metrics], shape: LossShape) -> None:
    """Warn at the first step whose gradient is zero, which the last of these rows may be."""
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
