"""Known weights, and what must not happen to them in single precision."""

from __future__ import annotations

import torch
from numpy.polynomial import legendre

from flowbp.core import Lagrange, Sparse, adams_bashforth, euler, lagrange, multistep
from flowbp.core.methods.method import rescale
from flowbp.core.quadrature import _gauss_legendre


def test_lagrange_gives_the_textbook_rules():
    sigmas = torch.linspace(1, 0, 5, dtype=torch.float64)
    # Supports 0, 1, 2 of [0, 3): 3h/4, 0, 9h/4, the open three-point rule.
    weights = list(lagrange(sigmas, 0, 3).values())
    wanted = [-0.75 / 4, 0.0, -2.25 / 4]
    assert max(abs(w - v) for w, v in zip(weights, wanted, strict=True)) < 1e-15
    # Adams-Bashforth of order 3 on a uniform grid: 23/12, -16/12, 5/12 in the last stretch.
    weights = multistep(sigmas, 0, 4, order=3)
    assert abs(weights[3] + 0.25 * 23 / 12) < 1e-15


def test_gauss_legendre_is_numpys():
    for count in range(1, 8):
        points, weights = _gauss_legendre(count)
        x, w = legendre.leggauss(count)
        assert abs(points.numpy() - x).max() < 1e-14
        assert abs(weights.numpy() - w).max() < 1e-14


def test_weights_are_python_floats_in_double_precision():
    sigmas = torch.linspace(1, 0, 26)
    for rule in (euler, lagrange, multistep, adams_bashforth):
        weights = rule(sigmas, 3, 20, (3, 8, 19))
        assert all(type(w) is float for w in weights.values())
        assert abs(sum(weights.values()) - (float(sigmas[20]) - float(sigmas[3]))) < 1e-14


class FixedPair:
    """Always the pair (3, 8)."""

    def draw(self, steps: range, generator: torch.Generator) -> tuple[int, int]:
        return 3, 8


def test_rescaling_does_not_blow_up_rounding_noise():
    """A start weight of zero comes out as 1e-17: it has no gradient to scale up to the whole."""
    sigmas = torch.linspace(1, 0, 11, dtype=torch.float64)
    surrogate = Lagrange(order=2, active=1, rescale=0.5, pair=FixedPair()).draw(
        sigmas, torch.Generator()
    )
    last = surrogate.segments[1]
    assert abs(last.weights[8]) < 1e-15 < 0.1 < abs(last.weights[9])
    assert last.active == {8: 1.0}


def test_rescale_is_its_formula():
    weights = [-0.5, 0.25, -0.25]
    assert rescale(weights, weights[:1], 0.0) == 1
    assert rescale(weights, weights[:1], 1.0) == 2
    assert rescale(weights, weights[1:], 0.5) == 1.5
    sigmas = torch.linspace(1, 0, 11, dtype=torch.float64)
    surrogate = Sparse(active=2, rescale=0.5, tail=0.4).draw(sigmas, torch.Generator())
    assert all(abs(gamma - 1.5) < 1e-12 for gamma in surrogate.segments[0].active.values())
