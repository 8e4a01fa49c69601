"""Means and paired gains of a comparison, with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import attrs
import torch

from flowbp.evaluation.bootstrap import Gain, bootstrap_gain
from flowbp.evaluation.records import Comparison, Pair, Record


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
        count: how many prompts it has; one that stands twice in the list counts twice.
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
        overall: the row of all prompts of the list, whatever their kind.
        parts: changes of what a composed reward tells of its parts, over all prompts.

    Example:
        >>> row = Row("counting", 8, Change(0.5, 0.75, Gain(0.25, 0.1, 0.4)), None)
        >>> Summary((row,), row).overall.count
        8
    """

    kinds: tuple[Row, ...]
    overall: Row
    parts: Mapping[str, Change] = attrs.field(factory=dict)


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

    def part(name: str) -> Change:
        return _change(pairs, lambda record: record.parts[name], seed, resamples)

    parts = {name: part(name) for name in comparison.before.parts}
    return Summary(kinds, row("overall", pairs), parts)


def _row(name: str, pairs: Sequence[Pair], judged: bool, seed: int, resamples: int) -> Row:
    def change(figure: Callable[[Record], float]) -> Change:
        return _change(pairs, figure, seed, resamples)

    accuracy = change(lambda record: float(bool(record.passed))) if judged else None
    return Row(name, len(pairs), change(lambda record: record.reward), accuracy)


def _change(
    pairs: Sequence[Pair], figure: Callable[[Record], float], seed: int, resamples: int
) -> Change:
    before = [figure(pair.before) for pair in pairs]
    after = [figure(pair.after) for pair in pairs]
    gain = bootstrap_gain(
        [new - old for old, new in zip(before, after, strict=True)],
        prompts=[pair.before.prompt for pair in pairs],
        generator=torch.Generator().manual_seed(seed),
        resamples=resamples,
    )
    return Change(sum(before) / len(before), sum(after) / len(after), gain)
