"""The metrics of one optimizer step, fetched from the device in one transfer."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence

import attrs
import torch
from torch import Tensor

from flowbp.core import LossShape
from flowbp.evaluation.collapse import falling_reward, window_of
from flowbp.rank_errors import RanksDifferError
from flowbp.significant_digits import written
from flowbp.training.ranks import ALONE, Ranks
from flowbp.training.step import StepResult

QUANTITIES = ("latents", "rewards", "loss", "cotangent", "anchor", "gradients")
"""What must be finite, in the order in which a step computes it."""


_DIGITS = 12


class NoGradientWarning(UserWarning):
    """A step's gradient is exactly zero, as where every reward lies above a hinge's target."""


@attrs.frozen(kw_only=True)
class Metrics:
    """The metrics of one optimizer step."""

    # From 1.
    step: int
    # Mean and population standard deviation over the samples, renoised copies left out.
    reward: float
    reward_std: float
    # What the gradients belong to, copies included, the anchor's value not.
    loss: float
    # Of all gradients together, before clipping.
    gradient_norm: float
    learning_rate: float
    # Mean distance of each segment of the surrogate from the path, None where undefined; two at
    # least, so that steps of one segment and of two have the same columns.
    residuals: tuple[float | None, ...]
    # Network evaluations for each sample, forward and backward.
    velocity_calls: int
    # From the draw of the surrogate to the end of the update.
    seconds: float
    # The value of the reference anchor; None without one.
    anchor: float | None = None
    # Means over the same samples of the parts of a composed reward, such as `likeness.raw`.
    parts: Mapping[str, float] = attrs.field(factory=dict)


def metrics_row(metrics: Metrics) -> dict[str, float | None]:
    """The metrics by their names in files and charts; `parts.<name>` come last."""
    row: dict[str, float | None] = {}
    for name, value in attrs.asdict(metrics).items():
        if name == "residuals":
            row |= {f"residual_{number}": gap for number, gap in enumerate(value)}
        elif name == "parts":
            row |= {f"parts.{part}": mean for part, mean in value.items()}
        else:
            row[name] = value
    return row


def measure(
    result: StepResult,
    gradient_norm: Tensor,
    *,
    step: int,
    learning_rate: float,
    ranks: Ranks = ALONE,
    drawn: str = "0",
) -> tuple[Metrics, str | None]:
    """Fetch a step's metrics, of the whole batch: the only time that the host waits for the device.

    `drawn` is a hexadecimal digest of the prompts so far.

    Returns:
        The metrics, without `seconds` as yet, and the first of `QUANTITIES` that is not finite.

    Raises:
        RanksDifferError: another process has drawn other prompts.
    """
    scores, device = result.scores, result.rewards.device
    anchor = result.rewards.new_zeros(()) if result.anchor is None else result.anchor
    checked = (result.latents, scores.rewards, result.loss, scores.cotangent, anchor, gradient_norm)
    flags = torch.stack([torch.isfinite(value).all().to(device) for value in checked])
    # The norm is of the summed gradients already, the same for all.
    own = [result.rewards, scores.losses, flags[None], anchor[None], gradient_norm[None]]
    # As many digits as a number of 64 bits holds.
    digest = torch.tensor([int(drawn[:_DIGITS], 16)], dtype=torch.float64)
    rewards, losses, fine, anchors, norms, digests, *others = ranks.gathered(
        [*own, digest, *result.residuals, *result.parts.values()]
    )
    _refuse_other_prompts(digests, step)
    segments = len(result.residuals)
    groups = [
        [rewards.mean(), rewards.std(correction=0), losses.mean(), norms[0], anchors.sum()],
        [gap.mean() for gap in others[:segments]],
        list(fine.all(dim=0)),
        [values.mean() for values in others[segments:]],
    ]
    wanted = [value.to(rewards.device, torch.float32) for group in groups for value in group]
    fetched = iter(torch.stack(wanted).tolist())
    means, gaps, finite, parts = ([next(fetched) for _ in group] for group in groups)
    residuals = [gap if math.isfinite(gap) else None for gap in gaps]
    metrics = Metrics(
        step=step,
        reward=means[0],
        reward_std=means[1],
        loss=means[2],
        gradient_norm=means[3],
        learning_rate=learning_rate,
        residuals=(*residuals, None, None)[: max(2, len(residuals))],
        velocity_calls=result.cost.velocity_calls,
        seconds=0.0,
        anchor=None if result.anchor is None else means[4],
        parts=dict(zip(result.parts, parts, strict=True)),
    )
    broken = (name for name, fine in zip(QUANTITIES, finite, strict=True) if not fine)
    return metrics, next(broken, None)


def _refuse_other_prompts(digests: Tensor, step: int) -> None:
    for rank, digest in enumerate(digests.tolist()):
        if digest != digests[0]:
            raise RanksDifferError(
                f"rank {rank} has drawn other prompts than rank 0 by step {step}: the file of "
                "prompts differs, or the source draws from something else than the generator it is "
                "given; give every process the same file"
            )


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


class FallingRewardWarning(UserWarning):
    """The training reward has been falling for two windows of steps, by more than chance."""


def warn_of_falling_reward(rows: Sequence[Metrics], steps: int) -> None:
    """Warn once of each fall, after a window of the run's `steps` that shows it."""
    size = window_of(steps)
    if len(rows) % size:
        return
    rewards = [row.reward for row in rows]
    found = falling_reward(rewards, size)
    if found is None:
        return
    looks = (falling_reward(rewards[:end], size) for end in range(size, len(rewards), size))
    if any(look is not None and look.peak == found.peak for look in looks):
        return
    peak, now = (sum(rewards[end - size : end]) / size for end in (found.peak, len(rewards)))
    rate = written(max(row.learning_rate for row in rows), 2)
    warnings.warn(
        f"the training reward is falling: its mean was {written(peak, 4)} over the {size} steps up "
        f"to {found.peak}, has been lower since step {found.since}, and is {written(now, 4)} now, "
        "by more than chance. More steps of this kind are likely to make the model worse. Set "
        "training.sample_clip=1 if it is not set, take a third of the learning rate, whose peak "
        f"was {rate}, more batching.samples, or an anchor, or a stronger one; unless "
        "checkpoints.best says otherwise, the saved checkpoint with the best reward stays",
        FallingRewardWarning,
        stacklevel=2,
    )


def _tuples(values: Mapping[str, Sequence[float]]) -> dict[str, tuple[float, ...]]:
    return {name: tuple(each) for name, each in values.items()}


def _other_than_more(signs: Mapping[str, int]) -> dict[str, int]:
    return {name: sign for name, sign in signs.items() if sign != 1}


@attrs.frozen(kw_only=True)
class HeldOutMetrics:
    """What an evaluation inside a run found."""

    step: int
    # Over the held-out prompts, by name.
    means: Mapping[str, float]
    # The numbers behind a mean, one for every prompt, NaN where it says nothing of one.
    each: Mapping[str, tuple[float, ...]] = attrs.field(factory=dict, converter=_tuples, repr=False)
    # Where not more is better: -1 where less is, 0 where neither is.
    signs: Mapping[str, int] = attrs.field(factory=dict, converter=_other_than_more)

    @classmethod
    def of(
        cls, step: int, found: Mapping[str, float | Sequence[float]], signs: Mapping[str, int]
    ) -> HeldOutMetrics:
        """What was found after a step: by name a mean, or a number for every prompt."""
        each = {name: value for name, value in found.items() if isinstance(value, Sequence)}
        means = {
            n: _mean(value) if isinstance(value, Sequence) else value for n, value in found.items()
        }
        own = {name: sign for name, sign in signs.items() if name in means}
        return cls(step=step, means=means, each=each, signs=own)


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return math.fsum(known) / len(known) if known else math.nan
