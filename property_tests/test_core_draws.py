"""Every random choice is legal for every legal parameter, and pure in its generator."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flowbp.core import (
    Bridge,
    DirichletPair,
    DRTune,
    Lagrange,
    MidpointJPair,
    ReFL,
    Sparse,
    late_biased,
)
from flowbp.core.draws import window
from flowbp.testing import check_surrogate
from flowbp.testing.strategies import generators, grids

from .strategies import methods, pairs, variants


@given(sigmas=grids(max_steps=30), seed=st.integers(0, 2**31), data=st.data())
def test_every_draw_is_legal_and_pure(sigmas, seed, data):
    steps = sigmas.shape[0] - 1
    method = data.draw(methods(steps) | variants(sigmas))
    state, kept = torch.random.get_rng_state(), sigmas.clone()
    first, second = (method.draw(sigmas, torch.Generator().manual_seed(seed)) for _ in range(2))
    assert first == second
    assert torch.equal(torch.random.get_rng_state(), state) and torch.equal(sigmas, kept)
    check_surrogate(first, sigmas)


@pytest.mark.parametrize("denominator", [3, 10, 25, 100])
def test_the_window_is_the_last_ceil_of_its_ratio(denominator):
    """Every grid up to 100 steps: 0.07 * 100 is above 7 in floating point, and must give 7."""
    for steps, numerator in itertools.product(range(1, 101), range(1, denominator + 1)):
        length = math.ceil(Fraction(numerator, denominator) * steps)
        assert window(steps, numerator / denominator) == range(steps - length, steps)


@given(
    start=st.integers(0, 20),
    length=st.integers(1, 30),
    bias=st.floats(0, 20),
    generator=generators(),
    data=st.data(),
)
def test_late_biased_draws_distinct_steps_in_order(start, length, bias, generator, data):
    pool = range(start, start + length)
    count, origin = data.draw(st.integers(0, length)), data.draw(st.integers(0, start))
    steps = late_biased(pool, count, bias, generator, origin=origin)
    assert len(set(steps)) == count and set(steps) <= set(pool) and list(steps) == sorted(steps)


@given(start=st.integers(0, 20), length=st.integers(2, 40), generator=generators(), data=st.data())
def test_pairs_lie_in_their_window(start, length, generator, data):
    pair = data.draw(pairs(length))
    pool = range(start, start + length)
    k, j = pair.draw(pool, generator)
    assert 0 <= k < j and j in pool[1:]
    if not isinstance(pair, MidpointJPair):
        assert k in pool


@given(
    length=st.integers(3, 60),
    seed=st.integers(0, 10**6),
    cap=st.integers(1, 60),
    shares=st.tuples(*[st.floats(0.05, 20)] * 3),
)
def test_a_cap_moves_the_joint_later_and_keeps_the_gap(length, seed, cap, shares):
    pool = range(5, 5 + length)
    (k, j), (k_capped, j_capped) = (
        DirichletPair(*shares, cap=limit).draw(pool, torch.Generator().manual_seed(seed))
        for limit in (None, cap)
    )
    assert j_capped - k_capped == j - k
    assert j_capped == max(j, pool.stop - 1 - cap)


@given(sigmas=grids(2, 30), generator=generators(), data=st.data())
def test_sparse_and_bridge_draw_from_their_window(sigmas, generator, data):
    steps = sigmas.shape[0] - 1
    length = data.draw(st.integers(2, steps))
    active, tail = data.draw(st.integers(2, length)), length / steps
    sparse = Sparse(active=active, tail=tail).draw(sigmas, generator)
    assert len(sparse.segments[0].active) == active
    assert min(sparse.segments[0].active) >= steps - length
    before, after = Bridge(active=active, tail=tail).draw(sigmas, generator).segments
    j, start = after.start, steps - length
    assert len(before.active) + len(after.active) == active
    assert min(before.active) >= start and j in after.active
    # The share of the earlier side, unless one side has too few steps to give it.
    share = max(1, min(round(active * (j - start) / length), active - 1))
    assert len(before.active) == max(min(share, j - start), active - (steps - j))


@given(sigmas=grids(3, 30), generator=generators(), data=st.data())
def test_lagrange_takes_its_first_supports(sigmas, generator, data):
    order = data.draw(st.integers(1, 5))
    active = data.draw(st.integers(1, order))
    scale = data.draw(st.floats(0, 2))
    surrogate = Lagrange(order=order, active=active, support_scale=scale).draw(sigmas, generator)
    for segment in surrogate.segments:
        supports = sorted(segment.weights)
        assert supports[0] == segment.start
        assert len(supports) == min(order, segment.stop - segment.start)
        assert sorted(segment.active) == supports[:active]
        assert segment.active[segment.start] == 1.0
        assert all(segment.active[i] == scale for i in supports[1:active])


@given(sigmas=grids(max_steps=30), generator=generators(), data=st.data())
def test_early_predictions_stop_the_rollout(sigmas, generator, data):
    steps = sigmas.shape[0] - 1
    last = data.draw(st.integers(1, steps))
    surrogate = ReFL(last=last).draw(sigmas, generator)
    tau = surrogate.segments[0].start
    assert steps - last <= tau < steps and surrogate.horizon == tau + 1
    assert surrogate.segments[0].weights == {tau: -float(sigmas[tau])}

    ratio = data.draw(st.floats(0.05, 1))
    earliest = steps - max(1, round(ratio * steps))
    active = data.draw(st.integers(1, earliest + 1))
    surrogate = DRTune(active=active, stop_ratio=ratio).draw(sigmas, generator)
    e = surrogate.segments[-1].start
    train = sorted(i for segment in surrogate.segments for i in segment.active)
    assert earliest <= e < steps and surrogate.horizon == e + 1
    assert surrogate.segments[-1].weights == {e: -float(sigmas[e])}
    assert len(train) == active and train[0] >= 0 and train[-1] <= e
    assert {b - a for a, b in itertools.pairwise(train)} <= {(e + 1) // active}
