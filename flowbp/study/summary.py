"""What the draws of ascent say of a method together."""

from __future__ import annotations

import math
from collections.abc import Sequence

import attrs

from flowbp.evaluation.statistics import Gain
from flowbp.study.agreement import over_draws, pooled_share, spread_of_norms
from flowbp.study.ascent import Ascent


@attrs.frozen(kw_only=True)
class DirectionSummary:
    """Steps along one direction of a method, over all draws.

    Args:
        direction: its name.
        same: mean gain at each length, on the samples of the gradient.
        others: the same on other samples.
        useful: the place of the length with the largest mean gain on others; None where no length
            gains anything.
        gain: on others, of each draw at the length that is best in the other draws, so that the
            choice of a length flatters nobody.
        own: on the gradient's own samples, at those lengths.
    """

    direction: str
    same: tuple[float, ...]
    others: tuple[float, ...]
    useful: int | None
    gain: Gain
    own: Gain

    @property
    def survival(self) -> float | None:
        """The share of the gain on the gradient's own samples that others have, too."""
        return self.gain.mean / self.own.mean if self.own.mean > 0 else None


@attrs.frozen(kw_only=True)
class AscentSummary:
    """What is measured of a method's gradients and steps, over all draws.

    Args:
        directions: by direction.
        share: the signal's share in the gradient of a batch.
        agreement: the mean cosine of two batches' gradients.
        norm_spread: the largest norm of a batch's gradient over the smallest.
        cosine: with the exact gradient; None if that was not asked for.
        norm_ratio: to the exact gradient, the geometric mean.
        rms_changes: by length, how far a step changes a parameter, root mean square.
    """

    directions: tuple[DirectionSummary, ...]
    share: Gain
    agreement: Gain
    norm_spread: float
    cosine: Gain | None
    norm_ratio: float | None
    rms_changes: tuple[float, ...]


def summarized(draws: Sequence[Ascent], *, seed: int = 0) -> AscentSummary:
    """Summarize the draws of a method; intervals take each draw as a cluster.

    Args:
        draws: one at least.
        seed: of the bootstrap.
    """
    first, agreements = draws[0], [each.agreement for each in draws]
    cosines = [each.cosine for each in draws if each.cosine is not None]
    ratios = [each.norm_ratio for each in draws if each.norm_ratio]
    return AscentSummary(
        directions=tuple(_direction(draws, name, seed) for name in first.gains),
        share=pooled_share(agreements, seed=seed),
        agreement=over_draws([each.cosine for each in agreements], seed=seed),
        norm_spread=spread_of_norms(agreements),
        cosine=over_draws(cosines, seed=seed) if cosines else None,
        norm_ratio=_geometric(ratios) if ratios else None,
        rms_changes=tuple(each / math.sqrt(first.parameters) for each in first.lengths),
    )


def _direction(draws: Sequence[Ascent], name: str, seed: int) -> DirectionSummary:
    others = [each.gains[name].others for each in draws]
    same = [each.gains[name].same for each in draws]
    chosen = [best_place([*others[:d], *others[d + 1 :]] or others) for d in range(len(draws))]
    means = _means(others)
    best = best_place(others)
    return DirectionSummary(
        direction=name,
        same=_means(same),
        others=means,
        useful=best if means[best] > 0 else None,
        gain=over_draws([row[place] for row, place in zip(others, chosen, strict=True)], seed=seed),
        own=over_draws([row[place] for row, place in zip(same, chosen, strict=True)], seed=seed),
    )


def _means(rows: Sequence[Sequence[float]]) -> tuple[float, ...]:
    return tuple(math.fsum(column) / len(rows) for column in zip(*rows, strict=True))


def best_place(rows: Sequence[Sequence[float]]) -> int:
    """The column with the largest mean; of equals the first, numbers that are not finite last."""
    means = [each if math.isfinite(each) else -math.inf for each in _means(rows)]
    return max(range(len(means)), key=means.__getitem__)


def _geometric(values: Sequence[float]) -> float:
    return math.exp(math.fsum(map(math.log, values)) / len(values))
