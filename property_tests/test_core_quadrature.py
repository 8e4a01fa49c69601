"""Integration weights against sums, polynomials and hand-made formulas."""

from __future__ import annotations

import itertools
import re
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flowbp.core import adams_bashforth, euler, evenly_spaced, lagrange, multistep, uniform
from flowbp.testing.strategies import grids

from .formulas import lagrange_weights, spread

RULES = [
    euler,
    uniform,
    lagrange,
    multistep,
    partial(multistep, order=1),
    partial(multistep, order=4),
]


@st.composite
def stretches(draw, most=5, max_steps=8):
    """A grid, a segment on it and its supports."""
    sigmas = draw(grids(1, max_steps))
    steps = sigmas.shape[0] - 1
    start = draw(st.integers(0, steps - 1))
    stop = draw(st.integers(start + 1, steps))
    chosen = st.sets(st.sampled_from(range(start, stop)), min_size=1, max_size=most)
    return sigmas, start, stop, tuple(sorted(draw(chosen)))


def polynomial(seed: int, degree: int) -> np.polynomial.Polynomial:
    return np.polynomial.Polynomial(np.random.default_rng(seed).standard_normal(degree + 1))


def integral(p: np.polynomial.Polynomial, lower: float, upper: float) -> float:
    antiderivative = p.integ()
    return antiderivative(upper) - antiderivative(lower)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: re.sub(" at 0x[0-9a-f]+", "", str(rule)))
@given(stretch=stretches())
def test_weights_are_over_the_supports_and_sum_to_the_length(rule, stretch):
    sigmas, start, stop, supports = stretch
    weights = rule(sigmas, start, stop, supports)
    assert tuple(weights) == supports
    size = max(1.0, sum(map(abs, weights.values())))
    assert abs(sum(weights.values()) - float(sigmas[stop] - sigmas[start])) < 1e-12 * size


@given(stretch=stretches(), seed=st.integers(0, 10**6), slack=st.integers(1, 3))
def test_lagrange_integrates_polynomials_below_its_order_exactly(stretch, seed, slack):
    sigmas, start, stop, supports = stretch
    p = polynomial(seed, max(0, len(supports) - slack))
    weights = lagrange(sigmas, start, stop, supports)
    terms = [w * p(float(sigmas[i])) for i, w in weights.items()]
    wanted = integral(p, float(sigmas[start]), float(sigmas[stop]))
    assert abs(sum(terms) - wanted) < 1e-11 * max(1.0, sum(map(abs, terms)))


@given(stretch=stretches())
def test_lagrange_is_not_exact_one_degree_higher_in_general(stretch):
    sigmas, start, stop, supports = stretch
    nodes = [float(sigmas[i]) for i in supports]
    # The square of the node polynomial is positive, and vanishes at every support.
    p = np.polynomial.Polynomial.fromroots(nodes) ** 2
    terms = [w * p(node) for w, node in zip(lagrange(*stretch).values(), nodes, strict=True)]
    assert abs(sum(terms)) < 1e-12
    assert integral(p, float(sigmas[start]), float(sigmas[stop])) < 0


@given(stretch=stretches())
def test_one_support_is_the_leap_under_every_rule(stretch):
    sigmas, start, stop, supports = stretch
    leap = float(sigmas[stop] - sigmas[start])
    for rule in RULES:
        weights = rule(sigmas, start, stop, supports[:1])
        assert list(weights) == [supports[0]]
        assert abs(weights[supports[0]] - leap) < 1e-14


@given(stretch=stretches())
def test_euler_on_every_step_is_the_samplers_own_steps(stretch):
    sigmas, start, stop, _ = stretch
    wanted = {i: float(sigmas[i + 1] - sigmas[i]) for i in range(start, stop)}
    assert euler(sigmas, start, stop) == wanted


@given(stretch=stretches())
def test_euler_holds_each_velocity_until_the_next_support(stretch):
    sigmas, start, stop, supports = stretch
    # A staircase that jumps at the supports is integrated exactly, whatever its values.
    weights = euler(sigmas, start, stop, supports)
    total = dict.fromkeys(supports, 0.0)
    for i in range(start, stop):
        owner = max((m for m in supports if m <= i), default=supports[0])
        total[owner] += float(sigmas[i + 1] - sigmas[i])
    assert all(abs(weights[m] - total[m]) < 1e-14 for m in supports)


@given(stretch=stretches())
def test_multistep_of_order_one_is_euler(stretch):
    first, second = multistep(*stretch, order=1), euler(*stretch)
    assert all(abs(first[i] - second[i]) < 1e-14 for i in second)


@given(stretch=stretches(), seed=st.integers(0, 10**6), order=st.integers(1, 4))
def test_multistep_errs_only_where_too_few_supports_are_behind(stretch, seed, order):
    """Degree < order is exact from support `order - 1` on; before it, lower order is used."""
    sigmas, start, stop, supports = stretch
    p = polynomial(seed, order - 1)
    weights = multistep(sigmas, start, stop, supports, order=order)
    bounds = [start, *supports[1:], stop]
    wanted = 0.0
    for m in range(len(supports)):
        behind = [float(sigmas[i]) for i in supports[max(0, m - order + 1) : m + 1]]
        fit = np.polynomial.Polynomial.fit(
            behind, [p(node) for node in behind], len(behind) - 1, domain=[0, 1], window=[0, 1]
        )
        exact = len(behind) == order
        piece = p if exact else fit
        wanted += integral(piece, float(sigmas[bounds[m]]), float(sigmas[bounds[m + 1]]))
    terms = [w * p(float(sigmas[i])) for i, w in weights.items()]
    assert abs(sum(terms) - wanted) < 1e-9 * max(1.0, sum(map(abs, terms)))


@given(stretch=stretches())
def test_multistep_two_is_the_textbook_formula_with_variable_steps(stretch):
    sigmas, start, stop, supports = stretch
    x = [float(sigmas[i]) for i in supports]
    bounds = [float(sigmas[start]), *x[1:], float(sigmas[stop])]
    wanted = dict.fromkeys(supports, 0.0)
    for m, (a, b) in enumerate(itertools.pairwise(bounds)):
        if m == 0:
            wanted[supports[0]] += b - a
            continue
        slope = ((b - x[m]) ** 2 - (a - x[m]) ** 2) / (2 * (x[m] - x[m - 1]))
        wanted[supports[m]] += b - a + slope
        wanted[supports[m - 1]] -= slope
    actual = multistep(*stretch, order=2)
    size = max(map(abs, wanted.values()))
    assert all(abs(actual[i] - w) < 1e-12 * size for i, w in wanted.items())


@given(stretch=stretches())
def test_uniform_is_the_mean(stretch):
    assert len(set(uniform(*stretch).values())) == 1


@given(start=st.integers(0, 30), length=st.integers(1, 40), count=st.integers(1, 12))
def test_supports_are_spread_evenly_and_start_at_the_start(start, length, count):
    supports = evenly_spaced(start, start + length, count)
    assert supports[0] == start
    assert len(supports) == len(set(supports)) == min(length, count)
    assert supports == tuple(sorted(supports))
    if count > 1:
        assert supports[-1] == start + length - 1
        ideal = [start + m * (length - 1) / max(1, len(supports) - 1) for m in range(len(supports))]
        assert all(abs(i - wish) <= 0.5 for i, wish in zip(supports, ideal, strict=True))


@given(start=st.integers(0, 30), length=st.integers(1, 40), count=st.integers(1, 12))
def test_supports_round_the_offset_from_the_start(start, length, count):
    assert list(evenly_spaced(start, start + length, count)) == spread(start, start + length, count)


@given(stretch=stretches(), order=st.integers(1, 4), moved=st.integers(1, 20))
def test_spread_supports_move_with_their_segment(stretch, order, moved):
    _, start, stop, _ = stretch
    shifted = [i + moved for i in evenly_spaced(start, stop, order)]
    assert list(evenly_spaced(start + moved, stop + moved, order)) == shifted


@given(stretch=stretches(), order=st.integers(1, 5))
def test_adams_bashforth_is_the_integral_of_the_basis_behind(stretch, order):
    sigmas, start, stop, supports = stretch
    behind = [i for i in range(start, start - order, -1) if i >= 0]
    wanted = lagrange_weights(sigmas, start, stop, behind)
    actual = adams_bashforth(sigmas, start, stop, supports, order=order)
    assert list(actual) == behind
    size = max(map(abs, wanted.values()))
    assert all(abs(actual[i] - w) < 1e-12 * size for i, w in wanted.items())


@given(stretch=stretches(), seed=st.integers(0, 10**6), order=st.integers(1, 4))
def test_adams_bashforth_integrates_polynomials_below_its_order_exactly(stretch, seed, order):
    sigmas, start, stop, _ = stretch
    weights = adams_bashforth(sigmas, start, stop, order=order)
    p = polynomial(seed, len(weights) - 1)
    terms = [w * p(float(sigmas[i])) for i, w in weights.items()]
    wanted = integral(p, float(sigmas[start]), float(sigmas[stop]))
    assert abs(sum(terms) - wanted) < 1e-11 * max(1.0, sum(map(abs, terms)))


@pytest.mark.parametrize(
    ("order", "textbook"),
    [(1, [1]), (2, [3 / 2, -1 / 2]), (3, [23 / 12, -16 / 12, 5 / 12])],
)
@given(steps=st.integers(4, 20), data=st.data())
def test_adams_bashforth_on_even_steps_is_the_textbook_s(order, textbook, steps, data):
    start = data.draw(st.integers(order - 1, steps - 1))
    levels = 1 - np.arange(steps + 1) / steps
    weights = adams_bashforth(torch.tensor(levels), start, start + 1, order=order)
    scaled = [-w * steps for w in weights.values()]
    assert max(abs(w - v) for w, v in zip(scaled, textbook, strict=True)) < 1e-12 * steps
