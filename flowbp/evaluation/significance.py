"""When a gain is called significant: a sign-flip test, corrected for how many there are."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from flowbp.evaluation.clusters import Groups, Prompts, clustered

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

    Args:
        groups: differences, one for every prompt; several groups as for `stratified_gain`.
        prompts: of each difference of each group; None if all differ.
        generator: the source of randomness, on the CPU.
        flips: choices of signs to draw.

    Returns:
        p in (0, 1], two-sided.

    Raises:
        ValueError: for no groups or an empty one, other prompts than one for each difference, or
            fewer than one flip.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> sign_flip_p([[1.0] * 6], generator=generator) == 2 / 2**6
        True
        >>> sign_flip_p([[1.0, 1.0, 1.0, 0.0, 0.0, 0.0]], generator=generator)
        0.25

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

    Args:
        p: uncorrected.

    Returns:
        Corrected, in the same order.

    Example:
        >>> [round(each, 6) for each in holm([0.01, 0.04, 0.03])]
        [0.03, 0.06, 0.06]

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
    """The rule in words, for tables.

    Args:
        tested: how many comparisons were.

    Returns:
        A sentence without a full stop.

    Example:
        >>> rule(4)[:46]
        'sign-flip test over prompts, p ≤ 0.05 after Ho'
    """
    comparisons = "one comparison" if tested == 1 else f"{tested} comparisons"
    return (
        f"sign-flip test over prompts, p ≤ {LEVEL} after Holm's correction for the "
        f"{comparisons} of the table, of at least {LEAST} prompts; intervals are not corrected"
    )
