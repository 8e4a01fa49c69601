"""A variant replaces what it names, scales anew, and is refused where that changes nothing."""

from __future__ import annotations

import attrs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flowbp.core import (
    Bridge,
    DRaFT,
    DRTune,
    EveryStep,
    FirstSteps,
    Lagrange,
    LateBiased,
    LeapAlign,
    ReFL,
    Sparse,
    Variant,
    adams_bashforth,
    loss_weights,
    multistep,
    read,
    surrogate_vjp,
    uniform,
)
from flowbp.testing import random_problem
from flowbp.testing.strategies import grids

from .formulas import assert_segment, lagrange_weights, last_steps, scale
from .strategies import variants

GRID = torch.linspace(1, 0, 13, dtype=torch.float64)
SHIFTED = 3 * GRID / (1 + 2 * GRID)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def scales(method, segments) -> list[dict[int, float]]:
    """The gradient scales of active steps, by the formula of each method that has any."""
    if isinstance(method, Lagrange):
        gammas = [
            scale(each.weights.values(), (each.weights[i] for i in each.active), method.rescale)
            for each in segments
        ]
        return [
            {i: gamma * (1 if i == each.start else method.support_scale) for i in each.active}
            for gamma, each in zip(gammas, segments, strict=True)
        ]
    gamma = 1.0
    if isinstance(method, (Sparse, Bridge)):
        window = last_steps(segments[-1].stop, method.tail)
        whole = [w for each in segments for i, w in each.weights.items() if i in window]
        kept = [each.weights[i] for each in segments for i in each.active if i in window]
        gamma = scale(whole, kept, method.rescale)
    return [dict.fromkeys(each.active, gamma) for each in segments]


@given(sigmas=grids(2, 12), seed=st.integers(0, 10**6), data=st.data())
def test_a_variant_replaces_what_it_names_and_nothing_else(sigmas, seed, data):
    variant = data.draw(variants(sigmas))
    method, surrogate = variant.method, variant.draw(sigmas, seeded(seed))
    base = method.draw(sigmas, seeded(seed))
    bridged = variant.alpha is not None and len(base.segments) > 1
    assert surrogate.alpha == (variant.alpha if bridged else base.alpha)
    assert surrogate.reward_input == (variant.reward_input or base.reward_input)
    assert (surrogate.residual_floor, surrogate.noised) == (base.residual_floor, base.noised)
    wanted = scales(method, surrogate.segments)
    for new, old, gammas in zip(surrogate.segments, base.segments, wanted, strict=True):
        weights = dict(old.weights)
        if variant.quadrature is not None:
            weights = variant.quadrature(sigmas, old.start, old.stop, sorted(old.weights))
        assert_segment(new, (old.start, old.stop), weights, gammas)
        if variant.active is None and set(new.weights) == set(old.weights):
            assert set(new.active) == set(old.active)
        elif variant.active is None and isinstance(method, Lagrange):
            assert list(new.active) == list(weights)[: method.active]
        elif isinstance(variant.active, EveryStep):
            assert set(new.active) == set(weights)
        elif variant.active is not None:
            assert len(new.active) == min(variant.active.count, len(weights))


@given(
    steps=st.integers(4, 30),
    seed=st.integers(0, 10**6),
    rho=st.floats(0.1, 1),
    order=st.integers(1, 4),
)
def test_the_published_ablation_of_weights(steps, seed, rho, order):
    """Lagrange with other weights: the scale is theirs, the supports of the rule are its own."""
    even = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    sigmas = 3 * even / (1 + 2 * even)
    method = Lagrange(order=3, active=2, support_scale=0.25, rescale=rho)
    ablation = Variant(method, quadrature=uniform).draw(sigmas, seeded(seed))
    for segment in ablation.segments:
        count = len(segment.weights)
        gamma = 1 + rho * (count / min(2, count) - 1)
        assert abs(segment.active[segment.start] - gamma) < 1e-12

    def ahead(*arguments):
        return adams_bashforth(*arguments, order=order)

    ablation = Variant(method, quadrature=ahead).draw(sigmas, seeded(seed))
    for segment in ablation.segments:
        s = segment.start
        supports = [i for i in range(s, s - order, -1) if i >= 0]
        weights = lagrange_weights(sigmas, s, segment.stop, supports)
        gamma = scale(weights.values(), (weights[i] for i in supports[:2]), rho)
        active = {i: gamma * (1 if i == s else 0.25) for i in supports[:2]}
        assert_segment(segment, (s, segment.stop), weights, active)


PREDICTED = "posterior_mean"
EXTRAPOLATED = Variant(LeapAlign(), quadrature=adams_bashforth)
# A variant, and what it is without one of its axes.
TO_SOME_EFFECT = [
    (Variant(ReFL(last=2), reward_input="sample"), ReFL(last=2)),
    (Variant(ReFL(), quadrature=adams_bashforth), ReFL()),
    (Variant(DRTune(active=2), alpha=0.5), DRTune(active=2)),
    (Variant(DRTune(active=2), reward_input="sample"), DRTune(active=2)),
    (Variant(DRTune(active=1), active=EveryStep()), DRTune(active=1)),
    (Variant(Sparse(active=3), quadrature=multistep), Sparse(active=3)),
    (
        Variant(Sparse(active=3), quadrature=multistep, reward_input=PREDICTED),
        Variant(Sparse(active=3), quadrature=multistep),
    ),
    (Variant(Sparse(active=3), active=LateBiased(3)), Sparse(active=3)),
    (
        Variant(Bridge(), quadrature=uniform, reward_input=PREDICTED, alpha=0.2),
        Variant(Bridge(), quadrature=uniform, reward_input=PREDICTED),
    ),
    (Variant(LeapAlign(), reward_input=PREDICTED), LeapAlign()),
    (Variant(DRaFT(last=3), alpha=0.5), DRaFT(last=3)),
    (EXTRAPOLATED, LeapAlign()),
    (attrs.evolve(EXTRAPOLATED, active=FirstSteps(2)), EXTRAPOLATED),
    (Variant(Lagrange(), quadrature=uniform), Lagrange()),
    (Variant(Lagrange(), active=EveryStep()), Lagrange()),
]


def outcome(method, seed: int) -> list[torch.Tensor]:
    """What the reward reads, how its loss weighs, and its gradient."""
    problem = random_problem(SHIFTED, seed=seed)
    surrogate, path = method.draw(SHIFTED, seeded(seed)), problem.rollout()
    x = read(surrogate, path)
    gradient = surrogate_vjp(problem.field, problem.params, path, surrogate, x)
    return [x, loss_weights(surrogate, path), *gradient.values()]


@pytest.mark.parametrize(("variant", "without"), TO_SOME_EFFECT, ids=range(len(TO_SOME_EFFECT)))
def test_an_axis_that_is_accepted_changes_a_value_or_a_gradient(variant, without):
    assert any(
        (new - old).abs().max() > 1e-6 * old.abs().max()
        for seed in range(100)
        for new, old in zip(outcome(variant, seed), outcome(without, seed), strict=True)
    )


@settings(max_examples=30)
@given(sigmas=grids(3, 12), seed=st.integers(0, 10**6))
def test_an_axis_without_effect_in_one_draw_alone_is_drawn(sigmas, seed):
    """The last step's prediction is the sample: no reason to end a run in its 300th step."""
    for variant in (
        Variant(ReFL(last=2), reward_input="sample"),
        Variant(LeapAlign(), reward_input="posterior_mean"),
        Variant(DRTune(active=2, stop_ratio=0.7), alpha=0.5),
    ):
        variant.draw(sigmas, seeded(seed))
