"""Every method's surrogate against its written formula, for general grids, arguments and draws."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flowbp.core import (
    Bridge,
    DRaFT,
    DRaFTLV,
    DRTune,
    Lagrange,
    LeapAlign,
    Pulled,
    ReFL,
    Sparse,
    functional_pull,
    renoise,
    sweep,
)
from flowbp.testing import assert_gradients_close, with_jacobian_scale
from flowbp.testing.strategies import generators, grids, problems

from .formulas import (
    KnownPair,
    assert_rest,
    assert_segment,
    euler_weights,
    lagrange_weights,
    last_steps,
    scale,
    spread,
)

RATIOS = st.sampled_from((0.0, 1.0)) | st.floats(0, 1)
FLOORS = st.floats(1e-3, 5)


@st.composite
def tails(draw, steps, least=1):
    """A window's share of the grid, of at least `least` steps."""
    return draw(st.integers(least, steps)) / steps


@st.composite
def known_pairs(draw, window):
    """A legal pair for a window; k may come before it."""
    j = draw(st.integers(window.start + 1, window.stop - 1))
    return KnownPair(draw(st.integers(0, j - 1)), j)


@given(sigmas=grids(max_steps=30), generator=generators(), data=st.data())
def test_refl(sigmas, generator, data):
    steps = len(sigmas) - 1
    last = data.draw(st.integers(1, steps))
    surrogate = ReFL(last=last).draw(sigmas, generator)
    (leap,) = surrogate.segments
    tau = leap.start
    assert tau in range(steps - last, steps)
    assert_segment(leap, (tau, steps), {tau: -float(sigmas[tau])}, {tau: 1.0})
    assert_rest(surrogate, reward_input="posterior_mean")


@given(sigmas=grids(max_steps=30), generator=generators(), noised=st.integers(0, 4))
def test_draft_lv(sigmas, generator, noised):
    steps = len(sigmas) - 1
    surrogate = DRaFTLV(noised=noised).draw(sigmas, generator)
    (step,) = surrogate.segments
    i = steps - 1
    assert_segment(step, (i, steps), {i: -float(sigmas[i])}, {i: 1.0})
    assert_rest(surrogate, noised=noised)


@given(sigmas=grids(max_steps=30), generator=generators(), data=st.data())
def test_drtune(sigmas, generator, data):
    steps = len(sigmas) - 1
    ratio = data.draw(st.floats(0.05, 1))
    earliest = steps - max(1, round(ratio * steps))
    active = data.draw(st.integers(1, earliest + 1))
    surrogate = DRTune(active=active, stop_ratio=ratio).draw(sigmas, generator)
    *paths, leap = surrogate.segments
    e = leap.start
    assert e in range(earliest, steps)
    train = sorted(i for each in surrogate.segments for i in each.active)
    assert len(train) == active and train[0] >= 0 and train[-1] <= e
    assert {b - a for a, b in itertools.pairwise(train)} <= {(e + 1) // active}
    assert_segment(leap, (e, steps), {e: -float(sigmas[e])}, dict.fromkeys({e} & set(train), 1.0))
    assert len(paths) == (e > 0)
    for path in paths:
        early = dict.fromkeys(set(train) - {e}, 1.0)
        assert_segment(path, (0, e), euler_weights(sigmas, range(e)), early)
    assert_rest(surrogate, reward_input="posterior_mean")


@given(sigmas=grids(2, 30), alpha=RATIOS, tau=FLOORS, data=st.data())
def test_leap_align(sigmas, alpha, tau, data):
    steps, levels = len(sigmas) - 1, sigmas.tolist()
    pair = data.draw(known_pairs(range(steps)))
    k, j = pair.k, pair.j
    surrogate = LeapAlign(alpha=alpha, tau=tau, pair=pair).draw(sigmas, torch.Generator())
    assert pair.windows == [range(steps)]
    first, second = surrogate.segments
    assert_segment(first, (k, j), {k: levels[j] - levels[k]}, {k: 1.0})
    assert_segment(second, (j, steps), {j: -levels[j]}, {j: 1.0})
    assert_rest(surrogate, alpha=alpha, residual_floor=tau)


@given(sigmas=grids(max_steps=30), rho=RATIOS, generator=generators(), data=st.data())
def test_sparse(sigmas, rho, generator, data):
    steps = len(sigmas) - 1
    tail = data.draw(tails(steps))
    window = last_steps(steps, tail)
    count = data.draw(st.integers(1, len(window)))
    bias = data.draw(st.floats(0, 6))
    method = Sparse(active=count, late_bias=bias, rescale=rho, tail=tail)
    surrogate = method.draw(sigmas, generator)
    (path,) = surrogate.segments
    active = set(path.active)
    assert len(active) == count and active <= set(window)
    weights = euler_weights(sigmas, range(steps))
    gamma = scale((weights[i] for i in window), (weights[i] for i in active), rho)
    assert_segment(path, (0, steps), weights, dict.fromkeys(active, gamma))
    assert_rest(surrogate)


@given(sigmas=grids(2, 30), alpha=RATIOS, rho=RATIOS, generator=generators(), data=st.data())
def test_bridge(sigmas, alpha, rho, generator, data):
    steps = len(sigmas) - 1
    tail = data.draw(tails(steps, 2))
    window = last_steps(steps, tail)
    count = data.draw(st.integers(2, len(window)))
    pair = data.draw(known_pairs(window))
    j = pair.j
    method = Bridge(active=count, rescale=rho, alpha=alpha, pair=pair, tail=tail)
    surrogate = method.draw(sigmas, generator)
    assert pair.windows == [window]
    before, after = surrogate.segments
    early, late = set(before.active), set(after.active)
    room = j - window.start, steps - j
    share = max(1, min(round(count * room[0] / len(window)), count - 1))
    # The share of the earlier side, unless one side has too few steps to give it.
    assert len(early) == max(min(share, room[0]), count - room[1])
    assert len(early) + len(late) == count
    assert early <= set(range(window.start, j)) and j in late and late <= set(range(j, steps))
    weights = euler_weights(sigmas, range(steps))
    gamma = scale((weights[i] for i in window), (weights[i] for i in early | late), rho)
    halves = [(before, (0, j), early), (after, (j, steps), late)]
    for segment, ends, active in halves:
        own = euler_weights(sigmas, range(*ends))
        assert_segment(segment, ends, own, dict.fromkeys(active, gamma))
    assert_rest(surrogate, alpha=alpha)


@given(sigmas=grids(2, 30), alpha=RATIOS, rho=RATIOS, tau=FLOORS, data=st.data())
def test_lagrange(sigmas, alpha, rho, tau, data):
    steps = len(sigmas) - 1
    tail = data.draw(tails(steps, 2))
    window = last_steps(steps, tail)
    pair = data.draw(known_pairs(window))
    order = data.draw(st.integers(1, 5))
    count, damping = data.draw(st.integers(1, order)), data.draw(st.floats(0, 2))
    surrogate = Lagrange(
        order=order,
        active=count,
        support_scale=damping,
        alpha=alpha,
        tau=tau,
        rescale=rho,
        pair=pair,
        tail=tail,
    ).draw(sigmas, torch.Generator())
    assert pair.windows == [window]
    bounds = [(pair.k, pair.j), (pair.j, steps)]
    for segment, (start, stop) in zip(surrogate.segments, bounds, strict=True):
        supports = spread(start, stop, order)
        weights = lagrange_weights(sigmas, start, stop, supports)
        gamma = scale(weights.values(), (weights[i] for i in supports[:count]), rho)
        active = {i: gamma * (1 if i == start else damping) for i in supports[:count]}
        assert_segment(segment, (start, stop), weights, active)
    assert_rest(surrogate, alpha=alpha, residual_floor=tau)


@given(sigmas=grids(max_steps=30), data=st.data())
def test_draft(sigmas, data):
    steps = len(sigmas) - 1
    last = data.draw(st.integers(1, steps))
    surrogate = DRaFT(last=last).draw(sigmas, torch.Generator())
    kept = euler_weights(sigmas, range(steps - last, steps))
    assert len(surrogate.segments) == last
    assert_rest(surrogate, alpha=1.0 if last > 1 else 0.0)
    for segment, (i, delta) in zip(surrogate.segments, kept.items(), strict=True):
        assert_segment(segment, (i, i + 1), {i: delta}, {i: 1.0})


WITHOUT_A_JACOBIAN = {
    "ReFL": lambda steps: st.builds(ReFL, last=st.integers(1, steps)),
    "DRaFTLV": lambda steps: st.builds(DRaFTLV, noised=st.integers(0, 2)),
    "DRTune": lambda steps: st.just(DRTune(active=1 + steps // 2, stop_ratio=0.5)),
    "Sparse": lambda steps: st.builds(Sparse, active=st.integers(1, steps)),
}


@pytest.mark.parametrize("name", WITHOUT_A_JACOBIAN)
@given(problem=problems(min_steps=2), generator=generators(), data=st.data())
def test_methods_that_hold_no_jacobian(name, problem, generator, data):
    """No pull asks for the latents' cotangent, and another Jacobian gives the same gradient."""
    method = data.draw(WITHOUT_A_JACOBIAN[name](len(problem.sigmas) - 1))
    surrogate = method.draw(problem.sigmas, generator)
    assert surrogate.alpha == 0
    path = renoise(surrogate, problem.rollout(), problem.velocity, generator)
    g = torch.randn(path.sample.shape, generator=generator, dtype=torch.float64)

    def gradient(jacobian: float):
        field = with_jacobian_scale(problem.field, jacobian)
        pull = functional_pull(field, problem.params)

        def watched(latents, sigma, cotangents) -> Pulled:
            assert not cotangents.through_latents
            return pull(latents, sigma, cotangents)

        return sweep(surrogate, path, g, watched)

    assert_gradients_close(name, gradient(-4.0), gradient(1.0), 0)


@given(problem=problems(min_steps=2), generator=generators(), alpha=st.floats(0.1, 1))
def test_methods_that_hold_one_jacobian(problem, generator, alpha):
    path, g = problem.rollout(), torch.ones_like(problem.noise)
    for method in (LeapAlign(alpha=alpha), Bridge(active=2, alpha=alpha), Lagrange(alpha=alpha)):
        surrogate = method.draw(problem.sigmas, generator)
        asked = []

        def pull(latents, sigma, cotangents, asked=asked) -> Pulled:
            asked.append((sigma, cotangents.through_latents))
            return Pulled({}, torch.zeros_like(latents) if cotangents.through_latents else None)

        sweep(surrogate, path, g, pull)
        joint = problem.sigmas[surrogate.segments[1].start]
        assert [float(sigma) for sigma, through in asked if through] == [float(joint)]
