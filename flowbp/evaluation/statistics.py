"""Chance: a bootstrap over prompts, a sign-flip test, and Holm's correction."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import attrs
import torch
from scipy.special import stdtrit
from torch import Tensor

Groups = Sequence[Sequence[float]]
Prompts = Sequence[Sequence[str]]


@attrs.frozen(eq=False)
class Clusters:
    """What bootstraps and tests draw: the numbers of one prompt, together."""

    sums: Tensor
    sizes: Tensor

    def __len__(self) -> int:
        return len(self.sums)

    @property
    def mean(self) -> Tensor:
        """Of all numbers, each counted once: 0-dimensional."""
        return self.sums.sum() / self.sizes.sum()

    @property
    def shares(self) -> Tensor:
        """(C,) what each cluster adds to the mean."""
        return self.sums / self.sizes.sum()


def clustered(groups: Groups, prompts: Prompts | None = None) -> list[Clusters]:
    """Cluster the numbers of each group by their prompts."""
    if not groups or not all(groups):
        raise ValueError("`groups` is empty or holds an empty one; give a prompt of each")
    if prompts is not None and list(map(len, groups)) != list(map(len, prompts)):
        raise ValueError(
            f"`prompts` must be one for each number, {list(map(len, groups))} in the groups, got "
            f"{list(map(len, prompts))}"
        )
    found = []
    for number, group in enumerate(groups):
        values = torch.tensor(group, dtype=torch.float64)
        clusters = Clusters(values, torch.ones_like(values))
        if prompts is not None:
            places: dict[str, int] = {}
            index = torch.tensor([places.setdefault(t, len(places)) for t in prompts[number]])
            none = torch.zeros(len(places), dtype=torch.float64)
            clusters = Clusters(
                none.index_add(0, index, clusters.sums), none.index_add(0, index, clusters.sizes)
            )
        found.append(clusters)
    return found


_NORMAL = NormalDist()


@attrs.frozen
class Gain:
    """A mean gain and the interval that a bootstrap over prompts gives it."""

    mean: float
    low: float
    high: float


@attrs.frozen
class Change:
    """A mean before, the mean after, and the paired gain between them."""

    before: float
    after: float
    gain: Gain


def stratified_gain(
    groups: Groups,
    *,
    prompts: Prompts | None = None,
    generator: torch.Generator,
    resamples: int = 2000,
    level: float = 0.95,
) -> Gain:
    """The mean of the means of groups of differences, with its expanded percentile interval.

    Draws n of the n differences of each group with replacement, `resamples` times; the interval
    runs between the quantiles ``Φ(∓ sqrt(n / (n - 1)) t)`` of the means so found, n that of the
    smallest group and t of Student's distribution with n - 1 degrees of freedom at `level`. The
    plain quantiles ``(1 ∓ level) / 2`` give too narrow an interval for few prompts.
    Differences of equal prompts are drawn together, and n counts different prompts. Of fewer than
    8 prompts it still is too narrow, of one a point.

    Reference:
        Hesterberg, "What Teachers Should Know About the Bootstrap", The American Statistician 69,
        2015, section 5.3 (expanded percentile interval); Davison and Hinkley, Bootstrap Methods
        and their Application, 1997, sections 3.2 (strata) and 3.8 (clusters).
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
    tail = _NORMAL.cdf(-math.sqrt(least / (least - 1)) * stdtrit(least - 1, (1 + level) / 2))
    ends = torch.tensor([tail, 1 - tail], dtype=torch.float64)
    low, high = torch.quantile(torch.stack(drawn).mean(0), ends).tolist()
    return Gain(torch.stack([each.mean for each in found]).mean().item(), low, high)


LEVEL = 0.05
"""The chance of one gain or more that is called significant, where no model differs."""

LEAST = 10
"""Different prompts below which no gain is called significant: so few are no sample of prompts,
and where gains and losses are not alike in size the test is too generous for them."""

_FLIPS = 9_999
_CHUNK = 1_000


def sign_flip_p(
    groups: Groups,
    *,
    prompts: Prompts | None = None,
    generator: torch.Generator,
    flips: int = _FLIPS,
) -> float:
    """The probability of a mean gain this far from 0, if either model could be the better one.

    If two models do not differ, every difference of a prompt could as well have the other sign;
    differences of equal prompts have it together.
    ``p`` is the share of all choices of signs whose mean is at least as far from 0: of all 2^n
    where these are no more than `flips`, else of as many drawn ones, the given one counted too.
    Of verdicts this is McNemar's exact test.

    Reference:
        Fisher, The Design of Experiments, 1935, section 21; Phipson and Smyth, "Permutation
        p-values should never be zero", 2010, for the drawn ones.
    """
    if flips < 1:
        raise ValueError(f"`flips` must be at least 1, got {flips}; {_FLIPS} is a good number")
    shares = torch.cat([each.shares for each in clustered(groups, prompts)])
    shares = shares[shares != 0]
    # A tie must count, whatever the order of summation makes of it.
    least = shares.sum().abs() - 1e-12 * shares.abs().sum()
    if not len(shares):
        return 1.0
    if 2 ** len(shares) <= flips:
        means = torch.zeros(1, dtype=torch.float64)
        for share in shares:
            means = torch.cat([means + share, means - share])
        return means.abs().ge(least).double().mean().item()
    found = 1
    for start in range(0, flips, _CHUNK):
        size = (min(_CHUNK, flips - start), len(shares))
        drawn = torch.randint(2, size, generator=generator, dtype=torch.float64)
        found += int(((2 * drawn - 1) @ shares).abs().ge(least).sum())
    return found / (flips + 1)


def holm(p: Sequence[float]) -> tuple[float, ...]:
    """Correct p-values for their number: Holm's step-down method.

    Of n sorted ``p_1 ≤ p_2 ≤ …`` the i-th becomes ``max over j ≤ i of min(1, (n - j + 1) p_j)``.
    If those at most 0.05 are called significant, the chance that any of them is a false alarm is
    at most 0.05, however they hang together.

    Reference:
        Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of
        Statistics 6, 1979.
    """
    corrected, least = [1.0] * len(p), 0.0
    for place, number in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        least = max(least, min(1.0, (len(p) - place) * p[number]))
        corrected[number] = least
    return tuple(corrected)


def rule(tested: int) -> str:
    """The rule in words, for tables."""
    comparisons = "one comparison" if tested == 1 else f"{tested} comparisons"
    return (
        f"sign-flip test over prompts, p ≤ {LEVEL} after Holm's correction for the "
        f"{comparisons} of the table, of at least {LEAST} prompts; intervals are not corrected"
    )
