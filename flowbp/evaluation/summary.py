"""Means and paired gains of a comparison, with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs
import torch

from flowbp.evaluation.records import Comparison, Pair


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


@attrs.frozen
class Change:
    """A mean before, the mean after, and the paired gain between them.

    Args:
        before: mean before training.
        after: mean after training.
        gain: their paired difference.

    Example:
        >>> Change(0.5, 0.75, Gain(0.25, 0.1, 0.4)).after
        0.75
    """

    before: float
    after: float
    gain: Gain


@attrs.frozen
class Row:
    """The changes of one kind of prompt, or of all of them.

    Args:
        name: the kind.
        count: how many prompts it has.
        reward: change of the mean reward.
        accuracy: change of the share of prompts that pass; None without a judge.

    Example:
        >>> Row("counting", 8, Change(0.5, 0.75, Gain(0.25, 0.1, 0.4)), None).count
        8
    """

    name: str
    count: int
    reward: Change
    accuracy: Change | None


@attrs.frozen
class Summary:
    """A comparison in figures.

    Args:
        kinds: one row per kind of prompt, in order of first appearance.
        overall: the row of all prompts, each counted once whatever its kind.
        parts: changes of what a composed reward tells of its parts, over all prompts.

    Example:
        >>> row = Row("counting", 8, Change(0.5, 0.75, Gain(0.25, 0.1, 0.4)), None)
        >>> Summary((row,), row).overall.count
        8
    """

    kinds: tuple[Row, ...]
    overall: Row
    parts: Mapping[str, Change] = attrs.field(factory=dict)


def bootstrap_gain(
    differences: Sequence[float],
    *,
    generator: torch.Generator,
    resamples: int = 2000,
    level: float = 0.95,
) -> Gain:
    """Mean of paired differences with a percentile bootstrap interval.

    Draws `resamples` times n of the n differences with replacement; the interval runs between the
    ``(1 ∓ level) / 2`` quantiles of the means so found. It tells how far the noise, and prompts
    like these, could have gone otherwise; where a few prompts come again and again with other
    noise, it says nothing about further prompts. Of very few it is too narrow, of one a point.

    Args:
        differences: after minus before, one for every prompt.
        generator: the source of randomness, on the CPU.
        resamples: how often to draw.
        level: share of the resampled means inside the interval, in (0, 1).

    Returns:
        The mean and its interval.

    Raises:
        ValueError: for no differences, no resamples or a level outside (0, 1).

    Example:
        >>> gain = bootstrap_gain([0.0, 1.0, 1.0, 0.0], generator=torch.Generator().manual_seed(0))
        >>> gain.mean, gain.low < gain.mean < gain.high
        (0.5, True)

    Reference:
        Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
    """
    if not differences:
        raise ValueError("`differences` is empty; a gain needs at least one prompt")
    return stratified_gain([differences], generator=generator, resamples=resamples, level=level)


def stratified_gain(
    groups: Sequence[Sequence[float]],
    *,
    generator: torch.Generator,
    resamples: int = 2000,
    level: float = 0.95,
) -> Gain:
    """The mean of the means of several groups, each as in `bootstrap_gain` drawn for itself.

    ``mean over groups g of mean over i in g of d_i``: groups count alike whatever their sizes, and
    how many of a group are drawn is no chance.

    Args:
        groups: differences, one for every prompt of a group.
        generator: the source of randomness, on the CPU.
        resamples: how often to draw.
        level: share of the resampled means inside the interval, in (0, 1).

    Returns:
        The mean and its interval.

    Raises:
        ValueError: for no groups or an empty one, no resamples or a level outside (0, 1).

    Example:
        >>> stratified_gain([[1.0] * 9, [0.0]], generator=torch.Generator().manual_seed(0))
        Gain(mean=0.5, low=0.5, high=0.5)

    Reference:
        Davison and Hinkley, Bootstrap Methods and their Application, 1997, section 3.2.
    """
    if not groups or not all(groups):
        raise ValueError("`groups` is empty or holds an empty one; a gain needs a prompt of each")
    if resamples < 1:
        raise ValueError(f"`resamples` must be at least 1, got {resamples}; 2000 is a good number")
    if not 0 < level < 1:
        raise ValueError(f"`level` must be between 0 and 1, got {level}; 0.95 is usual")
    means, drawn = [], []
    for group in groups:
        values = torch.tensor(group, dtype=torch.float64)
        chosen = torch.randint(len(values), (resamples, len(values)), generator=generator)
        means.append(values.mean())
        drawn.append(values[chosen].mean(1))
    ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = torch.quantile(torch.stack(drawn).mean(0), ends).tolist()
    return Gain(torch.stack(means).mean().item(), low, high)


def summarise(comparison: Comparison, *, seed: int = 0, resamples: int = 2000) -> Summary:
    """Means before and after with paired gains, per kind of prompt and overall.

    Every row draws from its own generator of the same seed, so that a row does not change when
    another kind is added.

    Args:
        comparison: the two evaluations.
        seed: seed of the bootstrap.
        resamples: how often the bootstrap draws.

    Returns:
        The rows.

    Example:
        >>> from flowbp.evaluation.records import Evaluation, Record
        >>> old = Record(index=0, prompt="a circle", kind="colors", reward=0.25, passed=False)
        >>> new = attrs.evolve(old, reward=0.5, passed=True)
        >>> before = Evaluation(label="before", noise_seed=0, seconds=1, records=[old])
        >>> after = Evaluation(label="after", noise_seed=0, seconds=1, records=[new])
        >>> summarise(Comparison(before, after)).overall.accuracy
        Change(before=0.0, after=1.0, gain=Gain(mean=1.0, low=1.0, high=1.0))
    """
    pairs = comparison.pairs

    def row(name: str, chosen: Sequence[Pair]) -> Row:
        return _row(name, chosen, comparison.judged, seed, resamples)

    kinds = tuple(
        row(kind, [pair for pair in pairs if pair.before.kind == kind])
        for kind in comparison.before.kinds
    )
    parts = {
        name: _change(
            [pair.before.parts[name] for pair in pairs],
            [pair.after.parts[name] for pair in pairs],
            seed,
            resamples,
        )
        for name in comparison.before.parts
    }
    return Summary(kinds, row("overall", pairs), parts)


def _row(name: str, pairs: Sequence[Pair], judged: bool, seed: int, resamples: int) -> Row:
    def change(before: list[float], after: list[float]) -> Change:
        return _change(before, after, seed, resamples)

    reward = change([p.before.reward for p in pairs], [p.after.reward for p in pairs])
    accuracy = None
    if judged:
        accuracy = change(
            [float(bool(p.before.passed)) for p in pairs],
            [float(bool(p.after.passed)) for p in pairs],
        )
    return Row(name, len(pairs), reward, accuracy)


def _change(before: list[float], after: list[float], seed: int, resamples: int) -> Change:
    gain = bootstrap_gain(
        [new - old for old, new in zip(before, after, strict=True)],
        generator=torch.Generator().manual_seed(seed),
        resamples=resamples,
    )
    return Change(sum(before) / len(before), sum(after) / len(after), gain)
