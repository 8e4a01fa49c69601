"""The formulas of weights, supports and scales, written again in exact arithmetic."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from decimal import ROUND_HALF_EVEN, Decimal
from fractions import Fraction

import attrs
import torch

from flowbp.core import Segment, Surrogate

ROUNDING = 1e-12


@attrs.define
class KnownPair:
    """A pair draw that returns a given pair and keeps the windows it was asked with."""

    k: int
    j: int
    windows: list[range] = attrs.field(factory=list)

    def draw(self, steps: range, generator: torch.Generator) -> tuple[int, int]:
        self.windows.append(steps)
        return self.k, self.j


def euler_weights(sigmas: torch.Tensor, steps: Iterable[int]) -> dict[int, float]:
    levels = sigmas.double().tolist()
    return {i: levels[i + 1] - levels[i] for i in steps}


def lagrange_weights(
    sigmas: torch.Tensor, start: int, stop: int, supports: Sequence[int]
) -> dict[int, float]:
    """`w_i = integral of l_i from sigma_s to sigma_t`, the basis multiplied out in fractions."""
    levels = [Fraction(level) for level in sigmas.double().tolist()]
    weights = {}
    for i in supports:
        basis = [Fraction(1)]  # coefficients, constant first
        for m in supports:
            if m != i:
                gap = levels[i] - levels[m]
                shifted = [Fraction(0), *basis]
                scaled = [levels[m] * c for c in basis] + [Fraction(0)]
                basis = [(a - b) / gap for a, b in zip(shifted, scaled, strict=True)]
        lower, upper = levels[start], levels[stop]
        powers = enumerate(basis, 1)
        weights[i] = float(sum(c * (upper**n - lower**n) / n for n, c in powers))
    return weights


def spread(start: int, stop: int, count: int) -> list[int]:
    """`count` steps with even offsets from `start`, halves of an offset to the even one."""
    length = stop - start
    if length <= count:
        return list(range(start, stop))
    if count == 1:
        return [start]
    ideal = [Decimal(m * (length - 1)) / (count - 1) for m in range(count)]
    return [start + int(each.to_integral_value(ROUND_HALF_EVEN)) for each in ideal]


def scale(weights: Iterable[float], active: Iterable[float], rho: float) -> float:
    """`1 + rho (sum |w| / sum over A |w| - 1)`, 1 where the active weights are rounding noise."""
    whole, kept = math.fsum(map(abs, weights)), math.fsum(map(abs, active))
    return 1.0 if kept <= 1e-8 * whole else 1 + rho * (whole / kept - 1)


def last_steps(steps: int, tail: float) -> range:
    """The last `ceil(tail N)`, of a tail that is a ratio of whole numbers up to N."""
    length = math.ceil(Fraction(tail).limit_denominator(10**6) * steps)
    return range(steps - length, steps)


def assert_segment(
    segment: Segment, ends: tuple[int, int], weights: Mapping[int, float], active: Mapping
) -> None:
    """Ends, supports and active steps exactly; weights and scales to rounding."""
    assert (segment.start, segment.stop) == ends
    assert set(segment.weights) == set(weights) and set(segment.active) == set(active)
    size = max(map(abs, weights.values()))
    for i, w in weights.items():
        assert abs(segment.weights[i] - w) <= ROUNDING * size
    for i, gamma in active.items():
        assert abs(segment.active[i] - gamma) <= ROUNDING * max(1, abs(gamma))


def assert_rest(
    surrogate: Surrogate,
    *,
    alpha: float = 0.0,
    reward_input: str = "sample",
    residual_floor: float | None = None,
    noised: int = 0,
) -> None:
    """What a surrogate holds besides its segments."""
    assert isinstance(surrogate, Surrogate)
    assert surrogate.alpha == alpha
    assert surrogate.reward_input == reward_input
    assert surrogate.residual_floor == residual_floor
    assert surrogate.noised == noised
