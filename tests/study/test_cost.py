"""Cost: what is measured, what a method's step costs, and steps at equal cost."""

from __future__ import annotations

import itertools

import pytest
import torch

from flowbp.core import Bridge, DRaFT, DRaFTLV, ReFL
from flowbp.study.cost import CostWeights, mean_cost, measure_weights, steps_at
from flowbp.training import TrainingSampling

from .study_toy import toy_step

GRID = torch.linspace(1, 0, 11)
PLAIN = TrainingSampling(steps=10, guidance=1.0, height=8, width=8)
GUIDED = TrainingSampling(steps=10, guidance=3.0, height=8, width=8)
WEIGHTS = CostWeights(forward=1.0, pull=3.0, picture=2.0)


def surrogates(method, count=10):
    return [method.draw(GRID, torch.Generator().manual_seed(n)) for n in range(count)]


@pytest.mark.parametrize(
    ("method", "sampling", "wanted"),
    [
        (DRaFT(last=1), PLAIN, 10 + 3 + 2),
        (DRaFT(last=10), PLAIN, 10 + 30 + 2),
        (Bridge(active=4), PLAIN, 10 + 12 + 2),
        # Both branches forward, one back.
        (DRaFT(last=1), GUIDED, 20 + 3 + 2),
        # Each renoised copy is evaluated, pulled and scored.
        (DRaFTLV(noised=2), PLAIN, 10 + 2 + 3 * 3 + 3 * 2),
    ],
)
def test_a_steps_cost_is_what_it_evaluates(method, sampling, wanted):
    assert mean_cost(surrogates(method), sampling, WEIGHTS) == pytest.approx(wanted)


def test_a_mean_is_over_draws():
    drawn = surrogates(ReFL(last=5), 40)
    horizons = [each.horizon for each in drawn]
    assert len(set(horizons)) > 1
    wanted = sum(horizons) / 40 + 3 + 2
    assert mean_cost(drawn, PLAIN, WEIGHTS) == pytest.approx(wanted)


def test_an_anchor_costs_its_reference():
    assert mean_cost(surrogates(DRaFT(last=4)), PLAIN, WEIGHTS, anchored=True) == 10 + 4 + 12 + 2


def test_steps_at_equal_cost():
    assert steps_at(420, 42) == 10 and steps_at(420, 15) == 28 and steps_at(1, 42) == 1


def test_weights_are_seconds_for_a_sample():
    """With a clock that runs one second for each look, each part takes one."""
    clock = itertools.count().__next__
    step = toy_step()
    found = measure_weights(step, ["goal 1"] * 4, clock=clock)
    assert found == CostWeights(forward=0.25, pull=0.25, picture=0.25)
    assert step.backbone.module.weight.grad is None


@pytest.mark.parametrize("wrong", [{"forward": 0}, {"pull": -1}, {"picture": float("nan")}])
def test_weights_out_of_range_are_refused(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=f"`{name}` must be a number in"):
        CostWeights(**{"forward": 1.0, "pull": 1.0, "picture": 1.0, **wrong})
