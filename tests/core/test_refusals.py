"""Illegal parameters of methods: the error names the argument, the value and the legal range."""

from __future__ import annotations

import math

import pytest
import torch

from flowbp.core import (
    Bridge,
    DirichletPair,
    DRaFT,
    DRaFTLV,
    DRTune,
    FirstSteps,
    Hinge,
    Lagrange,
    LateBiased,
    LeapAlign,
    MidpointPair,
    ReFL,
    Segment,
    Sparse,
    Surrogate,
    Target,
    UniformPair,
    Variant,
    draw_surrogate,
)

from .refusing import refused

GRID = torch.linspace(1, 0, 6)
STEP = Segment(0, 1, {0: -1.0}, {0: 1.0})
COUNTS = [0, -1, 1.5, True, "3", None, math.nan]
OUTSIDE_UNIT = [-0.1, 1.5, math.nan, math.inf, "half", True]


@pytest.mark.parametrize("value", COUNTS)
@pytest.mark.parametrize(
    ("kind", "argument"),
    [
        (ReFL, "last"),
        (DRaFT, "last"),
        (DRTune, "active"),
        (Sparse, "active"),
        (Lagrange, "order"),
        (Lagrange, "active"),
        (FirstSteps, "count"),
        (LateBiased, "count"),
    ],
)
def test_counts(kind, argument, value):
    refused(argument, value, ">= 1", lambda: kind(**{argument: value}))


@pytest.mark.parametrize("value", [1, 0, 2.0])
def test_bridge_needs_a_step_on_each_side(value):
    refused("active", value, ">= 2", lambda: Bridge(active=value))


@pytest.mark.parametrize("value", [-1, 0.5])
def test_copies(value):
    refused("noised", value, ">= 0", lambda: DRaFTLV(noised=value))


@pytest.mark.parametrize("value", OUTSIDE_UNIT)
@pytest.mark.parametrize(
    ("build", "argument"),
    [
        (LeapAlign, "alpha"),
        (Bridge, "alpha"),
        (Lagrange, "alpha"),
        (Sparse, "rescale"),
        (Bridge, "rescale"),
        (Lagrange, "rescale"),
        (lambda **axes: Variant(ReFL(), **axes), "alpha"),
        (lambda **axes: Surrogate((STEP,), **axes), "alpha"),
    ],
)
def test_ratios(build, argument, value):
    refused(argument, value, "[0, 1]", lambda: build(**{argument: value}))


@pytest.mark.parametrize("value", [0, *OUTSIDE_UNIT])
@pytest.mark.parametrize(
    ("kind", "argument"),
    [(Sparse, "tail"), (Bridge, "tail"), (Lagrange, "tail"), (DRTune, "stop_ratio")],
)
def test_windows(kind, argument, value):
    refused(argument, value, "(0, 1]", lambda: kind(**{argument: value}))


@pytest.mark.parametrize("value", [-1, math.inf, math.nan, "x"])
@pytest.mark.parametrize(
    ("kind", "argument"),
    [
        (Sparse, "late_bias"),
        (Bridge, "late_bias"),
        (Lagrange, "support_scale"),
        (lambda **bias: LateBiased(1, **bias), "bias"),
    ],
)
def test_non_negative_numbers(kind, argument, value):
    refused(argument, value, "[0, inf)", lambda: kind(**{argument: value}))


@pytest.mark.parametrize("value", [0, -1, math.inf, math.nan])
def test_positive_numbers(value):
    refused("tau", value, "(0, inf)", lambda: LeapAlign(tau=value))
    refused("tau", value, "(0, inf)", lambda: Lagrange(tau=value))
    refused("end", value, "(0, inf)", lambda: DirichletPair(value, 1, 1))
    refused("gap", value, "(0, inf)", lambda: DirichletPair(1, value, 1))
    refused("start", value, "(0, inf)", lambda: DirichletPair(1, 1, value))
    refused("residual_floor", value, "(0, inf)", lambda: Surrogate((STEP,), residual_floor=value))


@pytest.mark.parametrize("value", [math.inf, math.nan, "x"])
def test_loss_shapes(value):
    refused("target", value, "(-inf, inf)", lambda: Hinge(value))
    refused("value", value, "(-inf, inf)", lambda: Target(value))


def test_parameters_against_each_other():
    refused("active", 4, "[1, order=3]", lambda: Lagrange(order=3, active=4))
    refused("cap", 0, ">= 1", lambda: DirichletPair(1, 1, 1, cap=0))
    with pytest.raises(ValueError, match="reward_input, alpha, quadrature, active"):
        Variant(ReFL())
    word = "'sample' or 'posterior_mean'"
    refused("reward_input", "x", word, lambda: Variant(ReFL(), reward_input="x"))
    refused("reward_input", "x", word, lambda: Surrogate((STEP,), reward_input="x"))


@pytest.mark.parametrize(
    ("method", "argument", "value", "legal"),
    [
        (ReFL(), "last", 11, "[1, 5]"),
        (DRaFT(last=6), "last", 6, "[1, 5]"),
        (Sparse(active=6), "active", 6, "[1, 5]"),
        (Bridge(active=6), "active", 6, "[2, 5]"),
        (DRTune(active=5), "active", 5, "[1, 4]"),
    ],
)
def test_methods_that_the_grid_cannot_serve(method, argument, value, legal):
    refused(argument, value, legal, lambda: method.draw(GRID, torch.Generator()))
    refused(argument, value, "5 steps", lambda: method.draw(GRID, torch.Generator()))


@pytest.mark.parametrize(
    ("pair", "least"), [(UniformPair(), 2), (MidpointPair(), 2), (DirichletPair(1, 1, 1), 3)]
)
def test_pairs_that_the_window_cannot_serve(pair, least):
    with pytest.raises(ValueError, match=f"`steps`.*at least {least}.*got 1"):
        pair.draw(range(1), torch.Generator())
    with pytest.raises(ValueError, match=f"at least {least}.*got 1"):
        LeapAlign(pair=pair).draw(torch.tensor([1.0, 0.0]), torch.Generator())


class WrongPair:
    """A pair draw of one's own, and its mistake."""

    def __init__(self, *pair):
        self.pair = pair

    def draw(self, steps, generator):
        return self.pair


@pytest.mark.parametrize("pair", [(3, 3), (4, 2), (-1, 3), (0, 2), (1, 5)])
@pytest.mark.parametrize("method", [Bridge, Lagrange])
def test_pairs_that_lead_to_no_path(method, pair):
    """With a window from step 2 of 5, j must be 3 or 4, and k before it."""
    wrong = method(active=2, pair=WrongPair(*pair), tail=0.6)
    with pytest.raises(
        ValueError, match=r"`pair`.*0 <= k < j.*\[3, 5\).*WrongPair; correct"
    ) as caught:
        wrong.draw(GRID, torch.Generator())
    assert f"got {pair}" in str(caught.value)


class Mistaken:
    """A method of one's own, and its mistake."""

    def __init__(self, drawn):
        self.drawn = drawn

    def draw(self, sigmas, generator):
        return self.drawn


@pytest.mark.parametrize("drawn", [None, STEP, (STEP,), "Bridge", GRID])
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_method_that_draws_no_surrogate(drawn, wrapped):
    method = Variant(Mistaken(drawn), alpha=0.5) if wrapped else Mistaken(drawn)
    with pytest.raises(TypeError) as caught:
        draw_surrogate(method, GRID, torch.Generator())
    message = str(caught.value)
    assert "Mistaken.draw must return a flowbp.Surrogate" in message
    assert f"got {repr(drawn)[:8]}" in message and "; return Surrogate(segments)" in message
    assert len(message) < 200


def test_a_method_s_surrogate_is_handed_on_as_it_is():
    surrogate = Surrogate((STEP,))
    assert draw_surrogate(Mistaken(surrogate), GRID, torch.Generator()) is surrogate
