"""One conformance suite over all methods: a new one is tested by adding a line."""

from __future__ import annotations

import re
from functools import partial

import pytest
import torch

from flowbp.core import (
    Bridge,
    DirichletPair,
    DRaFT,
    DRaFTLV,
    DRTune,
    EveryStep,
    FirstSteps,
    Lagrange,
    LateBiased,
    LeapAlign,
    MidpointJPair,
    MidpointPair,
    ReFL,
    Sparse,
    Variant,
    adams_bashforth,
    multistep,
    uniform,
)
from flowbp.testing import check_method

METHODS = [
    ReFL(),
    DRaFTLV(),
    DRTune(),
    DRaFT(),
    DRaFT(last=25),
    LeapAlign(),
    LeapAlign(pair=MidpointPair()),
    LeapAlign(pair=MidpointJPair()),
    Sparse(),
    Sparse(active=4, late_bias=1.0, rescale=0.5),
    Sparse(active=25),
    Sparse(active=3, tail=0.3),
    Bridge(),
    Bridge(active=3, late_bias=4.0, rescale=0.5, alpha=1.0),
    Bridge(active=25),
    Bridge(active=3, tail=0.2),
    Lagrange(),
    Lagrange(order=1, active=1),
    Lagrange(rescale=0.5, pair=DirichletPair(2.5, 6, 2, cap=9)),
    Lagrange(pair=DirichletPair(2.5, 6, 2), tail=0.7),
    Variant(ReFL(), reward_input="sample"),
    Variant(DRaFT(last=4), alpha=0.5),
    Variant(DRTune(), reward_input="sample", alpha=0.5),
    Variant(DRTune(), active=EveryStep()),
    Variant(DRaFTLV(), quadrature=partial(adams_bashforth, order=2)),
    Variant(Sparse(), reward_input="posterior_mean", quadrature=multistep),
    Variant(Bridge(), quadrature=multistep, active=LateBiased(2)),
    Variant(LeapAlign(), reward_input="posterior_mean", alpha=1.0),
    Variant(LeapAlign(), quadrature=adams_bashforth, active=FirstSteps(2)),
    Variant(Lagrange(), quadrature=adams_bashforth, reward_input="posterior_mean"),
    Variant(Lagrange(), quadrature=uniform, active=FirstSteps(3), alpha=0.0),
    Variant(Bridge(rescale=0.5), quadrature=adams_bashforth, active=EveryStep()),
    Variant(Variant(Sparse(), active=LateBiased(6)), quadrature=multistep),
]


def named(method: object) -> str:
    # Without the addresses of functions, which differ between processes.
    return re.sub(" at 0x[0-9a-f]+", "", str(method))


@pytest.mark.parametrize("method", METHODS, ids=named)
def test_method(method):
    check_method(method, draws=3)


@pytest.mark.parametrize("shift", [0.5, 3.0])
@pytest.mark.parametrize("method", METHODS, ids=named)
def test_method_on_a_shifted_grid_in_single_precision(method, shift):
    uniform_grid = torch.linspace(1, 0, 26)
    check_method(method, sigmas=shift * uniform_grid / (1 + (shift - 1) * uniform_grid), draws=1)
