"""How far a mean gain could have gone otherwise: a bootstrap over prompts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import attrs
import torch

from flowbp.evaluation.clusters import Groups, Prompts, clustered

_NORMAL = NormalDist()


@attrs.frozen
class Gain:
    """A mean gain and the interval that a bootstrap over prompts gives it.

    Args:
        mean: the mean difference, after minus before.
        low: lower end of the interval.
        high: upper end of the interval.

    Example:
        >>> Gain(0.2, 0.1, 0.3).low
        0.1
    """

    mean: float
    low: float
    high: float


def bootstrap_gain(
    differences: Sequence[float],
    *,
    prompts: Sequence[str] | None = None,
    generator: torch.Generator,
    resamples: int = 2000,
    level: float = 0.95,
) -> Gain:
    """Mean of paired differences with an expanded percentile bootstrap interval.

    Draws `resamples` times n of the n differences with replacement; the interval runs between the
    quantiles ``Φ(∓ sqrt(n / (n - 1)) t)`` of the means so found, with t that of Student's
    distribution with n - 1 degrees of freedom at `level`. The usual quantiles ``(1 ∓ level) / 2``
    give an interval that is too narrow for few prompts: what is drawn varies less than the prompts
    it stands for, and how much these vary is itself uncertain.

    Differences of equal prompts are drawn together, and n counts different prompts: a list that
    is repeated with other noise is no larger sample of prompts. It tells how far the noise, and
    prompts like these, could have gone otherwise. Of fewer than 8 prompts it still is too narrow,
    of one a point.

    Args:
        differences: after minus before, one for every prompt of a list.
        prompts: the list; None if all differ.
        generator: the source of randomness, on the CPU.
        resamples: how often to draw.
        level: share of the resampled means inside the interval, in (0, 1).

    Returns:
        The mean and its interval.

    Raises:
        ValueError: for no differences, other prompts than one for each, no resamples or a level
            outside (0, 1).

    Example:
        >>> gain = bootstrap_gain([0.0, 1.0, 1.0, 0.0], generator=torch.Generator().manual_seed(0))
        >>> gain.mean, gain.low < gain.mean < gain.high
        (0.5, True)

    Reference:
        Hesterberg, "What Teachers Should Know About the Bootstrap", The American Statistician 69,
        2015, section 5.3 (expanded percentile interval); Davison and Hinkley, Bootstrap Methods
        and their Application, 1997, section 3.8 (clusters).
    """
    if not differences:
        raise ValueError("`differences` is empty; a gain needs at least one prompt")
    return stratified_gain(
        [differences],
        prompts=None if prompts is None else [prompts],
        generator=generator,
        resamples=resamples,
        level=level,
    )


def stratified_gain(
    groups: Groups,
    *,
    prompts: Prompts | None = None,
    generator: torch.Generator,
    resamples: int = 2000,
    level: float = 0.95,
) -> Gain:
    """The mean of the means of several groups, each as in `bootstrap_gain` drawn for itself.

    ``mean over groups g of mean over i in g of d_i``: groups count alike whatever their sizes, and
    how many of a group are drawn is no chance. The quantiles are those of the smallest group.

    Args:
        groups: differences, one for every prompt of a group.
        prompts: of each difference of each group; None if all differ.
        generator: the source of randomness, on the CPU.
        resamples: how often to draw.
        level: share of the resampled means inside the interval, in (0, 1).

    Returns:
        The mean and its interval.

    Raises:
        ValueError: for no groups or an empty one, other prompts than one for each difference, no
            resamples or a level outside (0, 1).

    Example:
        >>> stratified_gain([[1.0] * 9, [0.0]], generator=torch.Generator().manual_seed(0))
        Gain(mean=0.5, low=0.5, high=0.5)

    Reference:
        Davison and Hinkley, Bootstrap Methods and their Application, 1997, section 3.2.
    """
    if resamples < 1:
        raise ValueError(f"`resamples` must be at least 1, got {resamples}; 2000 is a good number")
    if not 0 < level < 1:
        raise ValueError(f"`level` must be between 0 and 1, got {level}; 0.95 is usual")
    found, drawn = clustered(groups, prompts), []
    for each in found:
        chosen = torch.randint(len(each), (resamples, len(each)), generator=generator)
        drawn.append(each.sums[chosen].sum(1) / each.sizes[chosen].sum(1))
    least = max(2, min(map(len, found)))
    tail = _NORMAL.cdf(-math.sqrt(least / (least - 1)) * _student(level, least - 1))
    ends = torch.tensor([tail, 1 - tail], dtype=torch.float64)
    low, high = torch.quantile(torch.stack(drawn).mean(0), ends).tolist()
    return Gain(torch.stack([each.mean for each in found]).mean().item(), low, high)


def _student(level: float, freedom: int) -> float:
    """The number that Student's t stays within with probability `level`, of 3 degrees or more.

    Of fewer the series falls short; there as here the interval is all that was drawn.

    Reference:
        Abramowitz and Stegun, Handbook of Mathematical Functions, 1964, 26.7.5.
    """
    z, n = _NORMAL.inv_cdf((1 + level) / 2), freedom
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / n + second / n**2 + third / n**3
