"""One row of figures per optimizer step, fetched from the device in one go."""

from __future__ import annotations

import math
from collections.abc import Mapping

import attrs
import torch
from torch import Tensor

from flowbp.training.result import StepResult

QUANTITIES = ("latents", "rewards", "loss", "cotangent", "anchor", "gradients")
"""What must be finite, in the order in which a step computes it."""


@attrs.frozen(kw_only=True)
class Metrics:
    """The figures of one optimizer step.

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
        parts: means over the same samples of what a composed reward tells of its parts, such as
            `likeness.raw`.

    Example:
        >>> [field.name for field in attrs.fields(Metrics)][:3]
        ['step', 'reward', 'reward_std']
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


def figures(metrics: Metrics) -> dict[str, float | None]:
    """The row as one flat mapping; the parts of the reward come last, as `parts.<name>`.

    Args:
        metrics: of a step.

    Returns:
        Every figure by its name in files and charts.

    Example:
        >>> row = Metrics(step=1, reward=0.5, reward_std=0.1, loss=0.2, gradient_norm=1.0,
        ...               learning_rate=1e-5, residual_0=0.0, residual_1=None, velocity_calls=9,
        ...               seconds=2.0, parts={"likeness.raw": 0.25})
        >>> list(figures(row))[-2:]
        ['anchor', 'parts.likeness.raw']
    """
    row = attrs.asdict(metrics)
    parts = row.pop("parts")
    return row | {f"parts.{name}": value for name, value in parts.items()}


@attrs.frozen(kw_only=True)
class Measured:
    """What the device computed in a step, as numbers.

    Args:
        reward: mean.
        reward_std: population standard deviation.
        loss: mean.
        gradient_norm: before clipping.
        residuals: of the first two segments; None where undefined.
        anchor: its value; None without one.
        parts: means of what a composed reward tells of its parts.
        broken: the first of `QUANTITIES` that is not finite, or None.
    """

    reward: float
    reward_std: float
    loss: float
    gradient_norm: float
    residuals: tuple[float | None, float | None]
    anchor: float | None
    parts: Mapping[str, float]
    broken: str | None


def measure(result: StepResult, gradient_norm: Tensor) -> Measured:
    """Fetch a step's figures: the only time that the host waits for the device.

    Args:
        result: the step's.
        gradient_norm: 0-d.

    Returns:
        Numbers.

    Example:
        See `Trainer`.
    """
    rewards, scores = result.rewards, result.scores
    anchor = rewards.new_zeros(()) if result.anchor is None else result.anchor
    checked = (result.latents, scores.rewards, result.loss, scores.cotangent, anchor, gradient_norm)
    gaps = [part.mean() for part in result.residuals[:2]]
    parts = {name: values.mean() for name, values in result.parts.items()}
    means = [rewards.mean(), rewards.std(correction=0), result.loss, gradient_norm, anchor, *gaps]
    flags = [torch.isfinite(value).all() for value in checked]
    device = rewards.device
    wanted = (*means, *flags, *parts.values())
    fetched = torch.stack([value.to(device, torch.float32) for value in wanted])
    reward, spread, loss, norm, distance, *rest = fetched.tolist()
    defined = [gap if math.isfinite(gap) else None for gap in rest[: len(gaps)]]
    fine, told = rest[len(gaps) :][: len(flags)], rest[len(gaps) + len(flags) :]
    broken = [name for name, each in zip(QUANTITIES, fine, strict=True) if not each]
    first, second = (*defined, None, None)[:2]
    return Measured(
        reward=reward,
        reward_std=spread,
        loss=loss,
        gradient_norm=norm,
        residuals=(first, second),
        anchor=None if result.anchor is None else distance,
        parts=dict(zip(parts, told, strict=True)),
        broken=broken[0] if broken else None,
    )


def row_of(
    step: int, measured: Measured, result: StepResult, rate: float, seconds: float
) -> Metrics:
    """Put the row of a step together.

    Args:
        step: its number, from 1.
        measured: what the device computed.
        result: the step's.
        rate: the learning rate that it used.
        seconds: that it took.

    Returns:
        The row.

    Example:
        See `Trainer`.
    """
    return Metrics(
        step=step,
        reward=measured.reward,
        reward_std=measured.reward_std,
        loss=measured.loss,
        gradient_norm=measured.gradient_norm,
        learning_rate=rate,
        residual_0=measured.residuals[0],
        residual_1=measured.residuals[1],
        velocity_calls=result.cost.velocity_calls,
        seconds=seconds,
        anchor=measured.anchor,
        parts=measured.parts,
    )
