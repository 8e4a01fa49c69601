"""Draws against probabilities computed in another way: chi-square on many draws."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Hashable, Mapping

import numpy as np
import pytest
import torch
from scipy import stats

from flowbp.core import (
    Bridge,
    DirichletPair,
    DRTune,
    Lagrange,
    LateBiased,
    MidpointJPair,
    MidpointPair,
    ReFL,
    Sparse,
    UniformPair,
    late_biased,
)

LEAST_P = 1e-3
DRAWS = 6000


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def assert_distributed(draws: list[Hashable], probabilities: Mapping[Hashable, float]) -> None:
    counts = Counter(draws)
    assert set(counts) <= {key for key, p in probabilities.items() if p > 0}
    assert abs(sum(probabilities.values()) - 1) < 1e-12
    # Rare outcomes are pooled: chi-square wants five expected in every cell.
    rare = {key for key, p in probabilities.items() if p * len(draws) < 5}
    cells = [([key], p) for key, p in probabilities.items() if key not in rare]
    if rare:
        cells.append((sorted(rare, key=str), sum(probabilities[key] for key in rare)))
    observed = [sum(counts[key] for key in keys) for keys, _ in cells]
    expected = [p * len(draws) for _, p in cells]
    assert stats.chisquare(observed, expected).pvalue > LEAST_P


def assert_same_distribution(first: list[Hashable], second: list[Hashable]) -> None:
    left, right = Counter(first), Counter(second)
    table = np.array([[left[key], right[key]] for key in left | right])
    common = table[table.sum(axis=1) >= 10]
    rest = table[table.sum(axis=1) < 10].sum(axis=0, keepdims=True)
    table = np.concatenate([common, rest]) if rest.sum() >= 10 else common
    assert stats.chi2_contingency(table).pvalue > LEAST_P


def without_replacement(
    pool: range, count: int, bias: float, origin: int = 0
) -> dict[tuple[int, ...], float]:
    """Probabilities of the sets of `count` steps, by adding up every order of drawing them."""
    sets: dict[tuple[int, ...], float] = Counter()
    weight = {i: float(i - origin + 1) ** bias for i in pool}
    for order in itertools.permutations(pool, count):
        p, left = 1.0, sum(weight.values())
        for i in order:
            p, left = p * weight[i] / left, left - weight[i]
        sets[tuple(sorted(order))] += p
    return sets


@pytest.mark.parametrize("bias", [0.0, 1.0, 2.5])
@pytest.mark.parametrize(("count", "origin"), [(1, 0), (2, 0), (3, 2)])
def test_late_biased(bias, count, origin):
    pool, source = range(2, 8), generator()
    draws = [late_biased(pool, count, bias, source, origin=origin) for _ in range(DRAWS)]
    assert_distributed(draws, without_replacement(pool, count, bias, origin))


def test_late_biased_inclusion_of_every_step_and_pair():
    """K = 2 from 25 steps, cell by cell: the marginal of each step is within five deviations."""
    pool, source = range(25), generator(1)
    wanted = without_replacement(pool, 2, 2.0)
    counts = Counter(i for _ in range(DRAWS) for i in late_biased(pool, 2, 2.0, source))
    for i in pool:
        p = sum(q for pair, q in wanted.items() if i in pair)
        assert abs(counts[i] - p * DRAWS) < 5 * (DRAWS * p * (1 - p)) ** 0.5 + 1


def test_uniform_pair():
    source, pool = generator(), range(3, 10)
    wanted = {pair: 1 / 21 for pair in itertools.combinations(pool, 2)}
    assert_distributed([UniformPair().draw(pool, source) for _ in range(DRAWS)], wanted)


def test_midpoint_pairs():
    source, steps = generator(), 11
    wanted = {(k, (k + steps) // 2): 1 / (steps - 1) for k in range(steps - 1)}
    draws = [MidpointPair().draw(range(steps), source) for _ in range(DRAWS)]
    assert_distributed(draws, wanted)
    wanted = {(j // 2, j): 1 / (steps - 1) for j in range(1, steps)}
    draws = [MidpointJPair().draw(range(steps), source) for _ in range(DRAWS)]
    assert_distributed(draws, wanted)


def test_midpoint_pairs_of_a_window():
    """`midpoint_j` halves from step 0, so that k may come before the window; `midpoint` does not.

    Both stay legal: j after the window's first step, k before j.
    """
    source, window = generator(), range(6, 11)
    draws = [MidpointJPair().draw(window, source) for _ in range(DRAWS)]
    assert_distributed(draws, {(j // 2, j): 1 / 4 for j in range(7, 11)})
    draws = [MidpointPair().draw(window, source) for _ in range(DRAWS)]
    assert_distributed(draws, {(k, (k + 11) // 2): 1 / 4 for k in range(6, 10)})


PUBLISHED_PAIRS = {
    "SD3.5-M": (DirichletPair(2.5, 6, 2, cap=9), 1.0),
    "FLUX.1-dev": (DirichletPair(2.5, 6, 2), 1.0),
    "FLUX.2-klein": (DirichletPair(2.5, 6, 2), 0.7),
}


@pytest.mark.parametrize(("pair", "tail"), PUBLISHED_PAIRS.values(), ids=PUBLISHED_PAIRS)
def test_supports_of_the_presets_draws(pair, tail):
    """All are the published ones; the absolute step rounded would differ in half of the draws."""
    sigmas, source, others = torch.linspace(1, 0, 26), generator(), 0
    method = Lagrange(order=3, active=2, pair=pair, tail=tail)
    for _ in range(500):
        segments = method.draw(sigmas, source).segments
        bounds = [(each.start, each.stop, min(3, each.stop - each.start)) for each in segments]
        published = [s + np.rint(np.linspace(0, t - 1 - s, n)) for s, t, n in bounds]
        assert [sorted(each.weights) for each in segments] == [list(each) for each in published]
        others += any(
            (np.rint(np.linspace(s, t - 1, n)) != each).any()
            for (s, t, n), each in zip(bounds, published, strict=True)
        )
    assert 0.4 < others / 500 < 0.65


def rounded_dirichlet(shares: np.ndarray, total: int, cap: int | None) -> tuple[int, int]:
    """`j = N - A - 1`, `k = N - A - B - 1` of one Dirichlet draw, A end, B gap, C start."""
    a, b, c = (max(1, int(np.rint(share * total))) for share in shares)
    parts = [a, b, c]
    # The remainder goes to the largest part; of equals, to the first.
    while sum(parts) > total:
        parts[int(np.argmax(parts))] -= 1
    if sum(parts) < total:
        parts[int(np.argmax(parts))] += total - sum(parts)
    a, b, _ = parts
    a = min(a, cap) if cap else a
    return total - a - b - 1, total - a - 1


@pytest.mark.parametrize(
    ("concentrations", "total", "cap"),
    [((2.5, 6, 2), 25, None), ((2.5, 6, 2), 25, 9), ((0.4, 0.7, 1.5), 7, None), ((1, 1, 1), 3, 1)],
)
def test_dirichlet_pair(concentrations, total, cap):
    source = generator()
    pair = DirichletPair(*concentrations, cap=cap)
    draws = [pair.draw(range(total), source) for _ in range(DRAWS)]
    shares = np.random.default_rng(7).dirichlet(concentrations, size=3 * DRAWS)
    wanted = [rounded_dirichlet(each, total, cap) for each in shares]
    assert_same_distribution(draws, wanted)


def test_dirichlet_parts_have_the_beta_means():
    """A, B, C over N have the means of the Dirichlet marginals, up to the rounding."""
    source, total = generator(3), 200
    pair = DirichletPair(end=2.5, gap=6.0, start=2.0)
    drawn = np.array([pair.draw(range(total), source) for _ in range(3000)])
    k, j = drawn[:, 0], drawn[:, 1]
    parts = np.stack([total - 1 - j, j - k, k + 1]) / total
    alphas = np.array([2.5, 6.0, 2.0])
    means = alphas / alphas.sum()
    deviation = np.sqrt(means * (1 - means) / (alphas.sum() + 1) / len(drawn))
    assert (abs(parts.mean(axis=1) - means) < 5 * deviation + 0.5 / total).all()


def test_refl_step():
    sigmas, source = torch.linspace(1, 0, 13), generator()
    draws = [ReFL(last=5).draw(sigmas, source).segments[0].start for _ in range(DRAWS)]
    assert_distributed(draws, dict.fromkeys(range(7, 12), 1 / 5))


@pytest.mark.parametrize(("ratio", "stops"), [(0.4, 4), (0.35, 4), (0.25, 2), (0.01, 1)])
def test_drtune_stop_and_offset(ratio, stops):
    """e is one of the last `round(ratio * 10)` steps, at least one; halves go to even."""
    sigmas, source = torch.linspace(1, 0, 11), generator()
    method, draws = DRTune(active=3, stop_ratio=ratio), []
    for _ in range(DRAWS):
        surrogate = method.draw(sigmas, source)
        train = sorted(i for segment in surrogate.segments for i in segment.active)
        draws.append((surrogate.segments[-1].start, train[0]))
    wanted = {}
    for e in range(10 - stops, 10):
        offsets = range(e + 1 - 2 * ((e + 1) // 3))
        wanted |= {(e, offset): 1 / stops / len(offsets) for offset in offsets}
    assert_distributed(draws, wanted)


def test_sparse_steps_with_a_tail_keep_their_own_numbers():
    sigmas, source = torch.linspace(1, 0, 11), generator()
    method = Sparse(active=2, late_bias=3.0, tail=0.5)
    draws = [tuple(method.draw(sigmas, source).segments[0].active) for _ in range(DRAWS)]
    assert_distributed(draws, without_replacement(range(5, 10), 2, 3.0))


@pytest.mark.parametrize(("active", "tail", "start"), [(3, 1.0, 0), (4, 0.75, 2), (6, 1.0, 0)])
def test_bridge_split(active, tail, start):
    """The joint set of every draw: j from a uniform pair, then both sides, by enumeration."""
    steps, bias, source = 8, 2.0, generator()
    length = steps - start
    wanted: dict[tuple[int, tuple[int, ...]], float] = Counter()
    for _, j in itertools.combinations(range(start, steps), 2):
        before, after = range(start, j), range(j + 1, steps)
        early = max(1, min(round(active * len(before) / length), len(before), active - 1))
        early = max(early, active - 1 - len(after))
        first = without_replacement(before, early, bias, origin=start)
        second = without_replacement(after, active - 1 - early, bias, origin=j + 1)
        for (a, p), (b, q) in itertools.product(first.items(), second.items()):
            wanted[j, (*a, j, *b)] += p * q / (length * (length - 1) / 2)
    sigmas = torch.linspace(1, 0, steps + 1)
    method, draws = Bridge(active=active, late_bias=bias, tail=tail), []
    for _ in range(DRAWS):
        before, after = method.draw(sigmas, source).segments
        draws.append((after.start, tuple(sorted([*before.active, *after.active]))))
    assert_distributed(draws, wanted)


def test_late_biased_supports_of_a_variant():
    supports, source = (1, 4, 6), generator()
    draws = [LateBiased(count=1, bias=1.0).draw(supports, source) for _ in range(DRAWS)]
    assert_distributed(draws, {(1,): 2 / 14, (4,): 5 / 14, (6,): 7 / 14})
