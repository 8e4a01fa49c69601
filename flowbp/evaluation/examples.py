"""Which pictures a report shows: some whatever their outcome, the best changes and the worst."""

from __future__ import annotations

import attrs

from flowbp.evaluation.records import Comparison, Pair


@attrs.frozen
class Examples:
    """Places in the list of prompts whose pictures are worth showing.

    Args:
        sample: evenly spaced over the list, chosen without a look at the outcome.
        gains: the largest gains, largest first.
        losses: the largest losses, largest first.

    Example:
        >>> Examples(sample=(0, 2), gains=(2,), losses=()).gains
        (2,)
    """

    sample: tuple[int, ...]
    gains: tuple[int, ...]
    losses: tuple[int, ...]


def choose_examples(
    comparison: Comparison, *, sample: int = 8, gains: int = 8, losses: int = 4
) -> Examples:
    """Choose a bounded number of prompts to show, losses among them.

    A change of verdict counts more than any change of reward.

    Args:
        comparison: the two evaluations.
        sample: at most how many to take evenly.
        gains: at most how many gains to take.
        losses: at most how many losses to take.

    Returns:
        Places in the list; one may be in `sample` and in another group as well.

    Example:
        >>> from flowbp.evaluation.records import Evaluation, Record
        >>> old = [Record(index=i, prompt=p, kind="k", reward=0.5) for i, p in enumerate("ab")]
        >>> new = [attrs.evolve(old[0], reward=0.25), attrs.evolve(old[1], reward=0.75)]
        >>> before = Evaluation(label="before", noise_seed=0, seconds=1, records=old)
        >>> after = Evaluation(label="after", noise_seed=0, seconds=1, records=new)
        >>> choose_examples(Comparison(before, after))
        Examples(sample=(0, 1), gains=(1,), losses=(0,))
    """
    pairs = comparison.pairs
    taken = min(sample, len(pairs))
    # By kind first: where kinds take turns in the list, even spacing could meet one kind only.
    by_kind = sorted(range(len(pairs)), key=lambda i: (pairs[i].before.kind, i))
    even = tuple(sorted(by_kind[(2 * i + 1) * len(pairs) // (2 * taken)] for i in range(taken)))
    ranked = sorted(range(len(pairs)), key=lambda i: _change(pairs[i]), reverse=True)
    better = [i for i in ranked if _change(pairs[i]) > (0, 0.0)]
    worse = [i for i in reversed(ranked) if _change(pairs[i]) < (0, 0.0)]
    return Examples(even, tuple(better[:gains]), tuple(worse[:losses]))


def _change(pair: Pair) -> tuple[int, float]:
    return pair.verdict_gain, pair.reward_gain
