"""Chance: a bootstrap over prompts, a sign-flip test, and Holm's correction."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import attrs
import torch
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
    if prompts is None:
        return [_each(group) for group in groups]
    if [len(group) for group in groups] != [len(texts) for texts in prompts]:
        raise ValueError(
            f"`prompts` must be one for each number, {[len(group) for group in groups]} in the "
            f"groups, got {[len(texts) for texts in prompts]}"
        )
    return [_together(group, texts) for group, texts in zip(groups, prompts, strict=True)]


def _each(group: Sequence[float]) -> Clusters:
    values = torch.tensor(group, dtype=torch.float64)
    return Clusters(values, torch.ones_like(values))


def _together(group: Sequence[float], texts: Sequence[str]) -> Clusters:
    places = {text: place for place, text in enumerate(dict.fromkeys(texts))}
    index = torch.tensor([places[text] for text in texts])
    each, none = _each(group), torch.zeros(len(places), dtype=torch.float64)
    return Clusters(none.index_add(0, index, each.sums), none.index_add(0, index, each.sizes))


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
    is repeated with other noise is no larger sample of prompts. It estimates how far the noise, and
    prompts like these, could have gone otherwise. Of fewer than 8 prompts it still is too narrow,
    of one a point.

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
    """The number that Student's t stays within with probability `level`, of 3 degrees or more."""
    z, n = _NORMAL.inv_cdf((1 + level) / 2), freedom
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / n + second / n**2 + third / n**3


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
