"""Axes that cannot change anything are refused: by key, value and cure, all at once."""

from __future__ import annotations

import attrs
import pytest
import torch

from flowbp.core import (
    Bridge,
    DRaFT,
    DRaFTLV,
    DRTune,
    EveryStep,
    FirstSteps,
    Lagrange,
    LeapAlign,
    ReFL,
    Sparse,
    Variant,
    adams_bashforth,
    euler,
    lagrange,
    read,
    surrogate_vjp,
    uniform,
)
from flowbp.testing import random_problem

GRID = torch.linspace(1, 0, 13, dtype=torch.float64)
SHIFTED = 3 * GRID / (1 + 2 * GRID)
WITHOUT_EFFECT = [
    (Variant(Sparse(active=3), reward_input="posterior_mean"), {"reward_input": "posterior_mean"}),
    (Variant(Bridge(), reward_input="posterior_mean"), {"reward_input": "posterior_mean"}),
    (Variant(DRaFTLV(), reward_input="posterior_mean"), {"reward_input": "posterior_mean"}),
    (Variant(ReFL(last=1), reward_input="sample"), {"reward_input": "sample"}),
    (Variant(Sparse(), reward_input="sample"), {"reward_input": "sample"}),
    (Variant(ReFL(), reward_input="posterior_mean"), {"reward_input": "posterior_mean"}),
    (Variant(Sparse(), alpha=0.5), {"alpha": "0.5"}),
    (Variant(ReFL(), alpha=0.0), {"alpha": "0.0"}),
    (Variant(Bridge(alpha=0.5), alpha=0.5), {"alpha": "0.5"}),
    (Variant(DRaFT(last=1), alpha=0.5), {"alpha": "0.5"}),
    (Variant(DRaFT(last=4), alpha=1.0), {"alpha": "1.0"}),
    (Variant(DRaFT(last=4), reward_input="posterior_mean"), {"reward_input": "posterior_mean"}),
    (Variant(ReFL(), quadrature=lagrange), {"quadrature": "lagrange"}),
    (Variant(LeapAlign(), quadrature=uniform), {"quadrature": "uniform"}),
    (Variant(Sparse(), quadrature=euler), {"quadrature": "euler"}),
    (Variant(ReFL(), active=EveryStep()), {"active": "EveryStep()"}),
    (Variant(Lagrange(active=2), active=FirstSteps(2)), {"active": "FirstSteps(count=2)"}),
    (
        Variant(Sparse(), reward_input="posterior_mean", alpha=0.25, active=FirstSteps(2)),
        {"reward_input": "posterior_mean", "alpha": "0.25"},
    ),
]


@pytest.mark.parametrize(("variant", "axes"), WITHOUT_EFFECT, ids=range(len(WITHOUT_EFFECT)))
def test_axes_without_effect(variant, axes):
    assert set(variant.without_effect(SHIFTED)) == set(axes)
    with pytest.raises(ValueError) as caught:
        variant.draw(SHIFTED, torch.Generator().manual_seed(0))
    message = str(caught.value)
    for axis in ("reward_input", "alpha", "quadrature", "active"):
        assert (f"`{axis}` must" in message) == (axis in axes)
    for value in axes.values():
        assert f"{type(variant.method).__name__} draws, got" in message
        assert value in message and "leave it out" in message


def test_a_rule_that_agrees_on_even_steps_alone_is_refused_there_alone():
    variant = Variant(Sparse(active=3), quadrature=uniform)
    assert list(variant.without_effect(GRID)) == ["quadrature"]
    assert variant.without_effect(SHIFTED) == {}


@pytest.mark.parametrize("method", [Sparse(active=3), Bridge()])
def test_the_prediction_of_the_sampler_s_own_steps_is_the_sample(method):
    """Hence the refusal: value and gradient are those of the sample, to rounding."""
    problem = random_problem(SHIFTED)
    surrogate = method.draw(SHIFTED, torch.Generator().manual_seed(0))
    predicted = attrs.evolve(surrogate, reward_input="posterior_mean")
    path = problem.rollout()
    x = path.sample
    assert (read(predicted, path) - x).abs().max() < 1e-13
    first, second = (
        surrogate_vjp(problem.field, problem.params, path, each, x)
        for each in (surrogate, predicted)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("method", [Sparse(), Bridge(), DRTune()])
def test_a_rule_that_takes_the_active_steps_away(method):
    variant = Variant(method, quadrature=adams_bashforth)
    with pytest.raises(ValueError, match=rf"`quadrature`.*{type(method).__name__}.*`active`"):
        variant.draw(torch.linspace(1, 0, 26), torch.Generator().manual_seed(1))


class Halved:
    """A method of one's own, without hooks: its scales are 0.5."""

    def draw(self, sigmas, generator):
        surrogate = Sparse(active=2).draw(sigmas, generator)
        (path,) = surrogate.segments
        return attrs.evolve(
            surrogate, segments=[attrs.evolve(path, active=dict.fromkeys(path.active, 0.5))]
        )


def test_a_method_without_a_rule_for_scales_keeps_those_it_drew():
    seeds = [torch.Generator().manual_seed(3) for _ in range(3)]
    drawn = set(Halved().draw(SHIFTED, seeds[0]).segments[0].active)
    other = Variant(Halved(), quadrature=uniform).draw(SHIFTED, seeds[1]).segments[0]
    assert other.active == dict.fromkeys(drawn, 0.5)
    every = Variant(Halved(), active=EveryStep()).draw(SHIFTED, seeds[2]).segments[0]
    assert every.active == {i: 0.5 if i in drawn else 1.0 for i in range(12)}


def test_variants_of_variants_scale_by_the_method_inside():
    inner = Variant(Lagrange(rescale=1.0, support_scale=0.5), active=FirstSteps(1))
    surrogate = Variant(inner, quadrature=uniform).draw(SHIFTED, torch.Generator().manual_seed(2))
    for segment in surrogate.segments:
        assert list(segment.active) == [segment.start]
        assert abs(segment.active[segment.start] - len(segment.weights)) < 1e-12
