"""Integration weights of a segment: `x_t - x_s` as a weighted sum of velocities.

Every rule maps the noise levels at its supports to weights that sum to `sigma_t - sigma_s`. They
are computed in float64, as Python floats, and cast once, where they meet a tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Protocol

import torch
from torch import Tensor

from .trajectory import grid


class Quadrature(Protocol):
    """A rule `weights = rule(sigmas, start, stop, supports)`.

    It weighs the supports it is given, or those it chooses itself: any steps before `stop`.

    Example:
        >>> def leap(sigmas, start, stop, supports=None):
        ...     return {start: float(sigmas[stop] - sigmas[start])}
        >>> leap(torch.linspace(1, 0, 5), 1, 3)
        {1: -0.5}
    """

    def __call__(
        self, sigmas: Tensor, start: int, stop: int, supports: Sequence[int] | None = None, /
    ) -> dict[int, float]:
        """Weights `{step: w}` that sum to `sigma_stop - sigma_start`."""
        ...


def evenly_spaced(start: int, stop: int, count: int) -> tuple[int, ...]:
    """At most `count` steps evenly spread over [start, stop), the first and last included.

    `start + round(m (stop - 1 - start) / (count - 1))` for m = 0 … count-1, halves of this offset
    to the even one; every step of the range if it has no more than `count`; `start` alone if
    `count` is 1.

    Args:
        start: the first step of the range.
        stop: the step after its last.
        count: the steps that are chosen, at least 1.

    Raises:
        ValueError: `count` is below 1 or the range is empty.

    Example:
        >>> evenly_spaced(0, 9, 3), evenly_spaced(4, 6, 3), evenly_spaced(1, 5, 3)
        ((0, 4, 8), (4, 5), (1, 3, 4))

    Reference: arXiv 2606.11075, section 4.
    """
    length = stop - start
    if count < 1 or length < 1:
        raise ValueError(
            f"`count` must be >= 1 and [start, stop) must hold a step, "
            f"got count={count}, start={start}, stop={stop}"
        )
    if length <= count:
        return tuple(range(start, stop))
    if count == 1:
        return (start,)
    return tuple(start + round(Fraction(m * (length - 1), count - 1)) for m in range(count))


def _nodes(
    sigmas: Tensor, start: int, stop: int, supports: Sequence[int] | None
) -> tuple[list[float], tuple[int, ...]]:
    levels = grid(sigmas)
    if not 0 <= start < stop < len(levels):
        raise ValueError(
            f"`start` and `stop` must satisfy 0 <= start < stop <= {len(levels) - 1}, "
            f"got start={start}, stop={stop}; the grid has {len(levels) - 1} steps"
        )
    steps = tuple(range(start, stop)) if supports is None else tuple(sorted(supports))
    if not steps or len(set(steps)) < len(steps) or steps[0] < start or steps[-1] >= stop:
        raise ValueError(
            f"`supports` must be distinct steps in [{start}, {stop}), at least one, got {supports}"
        )
    return levels, steps


def euler(
    sigmas: Tensor, start: int, stop: int, supports: Sequence[int] | None = None, /
) -> dict[int, float]:
    """Each velocity carried to the next support: `w_m = sigma_{next(m)} - sigma_m`.

    With every step a support these are the sampler's own steps; with `start` alone, one leap. If
    the first support comes after `start`, its velocity also covers the way there.

    Args:
        sigmas: (N+1,) noise levels from 1 to 0.
        start: s, the segment's first step.
        stop: t, the step it ends at, s < t <= N.
        supports: distinct steps in [s, t); all of them if not given.

    Returns:
        The weight of each step; they sum to `sigma_t - sigma_s`.

    Raises:
        ValueError: the steps do not lie on the grid.

    Example:
        >>> euler(torch.tensor([1.0, 0.75, 0.5, 0.0]), 0, 3)
        {0: -0.25, 1: -0.25, 2: -0.5}

    Reference: arXiv 2606.11075, section 3.
    """
    levels, steps = _nodes(sigmas, start, stop, supports)
    bounds = [levels[start], *(levels[i] for i in steps[1:]), levels[stop]]
    return {i: b - a for i, a, b in zip(steps, bounds, bounds[1:], strict=False)}


def uniform(
    sigmas: Tensor, start: int, stop: int, supports: Sequence[int] | None = None, /
) -> dict[int, float]:
    """The plain mean of the velocities: `w_m = (sigma_t - sigma_s) / |S|`.

    Arguments, returns and errors are `euler`'s.

    Example:
        >>> uniform(torch.tensor([1.0, 0.75, 0.5, 0.0]), 0, 3, (0, 2))
        {0: -0.5, 2: -0.5}

    Reference: arXiv 2606.11075, section 3.
    """
    levels, steps = _nodes(sigmas, start, stop, supports)
    return dict.fromkeys(steps, (levels[stop] - levels[start]) / len(steps))


def lagrange(
    sigmas: Tensor, start: int, stop: int, supports: Sequence[int] | None = None, /
) -> dict[int, float]:
    """The integral of the polynomial through the supports.

    `w_m = integral of l_m(sigma) from sigma_s to sigma_t`, `l_m` the Lagrange basis polynomial of
    support m. Exact for velocities that are polynomials in sigma of a degree below the number of
    supports; one support gives Euler's leap. Many supports on an uneven grid give weights of
    alternating sign and large size: not recommended beyond 6.

    Arguments, returns and errors are `euler`'s.

    Example:
        >>> weights = lagrange(torch.tensor([1.0, 0.75, 0.5, 0.0]), 0, 3, (0, 1))
        >>> {step: round(w, 6) for step, w in weights.items()}
        {0: 1.0, 1: -2.0}

    Reference: arXiv 2606.11075, section 3; Davis and Rabinowitz, "Methods of Numerical
    Integration", section 2.5.
    """
    levels, steps = _nodes(sigmas, start, stop, supports)
    return _basis_integrals(levels, steps, levels[start], levels[stop])


def adams_bashforth(
    sigmas: Tensor,
    start: int,
    stop: int,
    supports: Sequence[int] | None = None,
    /,
    *,
    order: int = 3,
) -> dict[int, float]:
    """One Adams-Bashforth step over the segment, from the velocities that end at its start.

    The supports are s, s-1, …, s-order+1, fewer at the grid's beginning; `w_m = integral of
    l_m(sigma) from sigma_s to sigma_t`, `l_m` their Lagrange basis. Order 1 is Euler's leap. It
    extrapolates, so the weights of a segment that is long against the steps before it are large
    and alternate in sign: not recommended there.

    Arguments, returns and errors are `euler`'s, but that the rule puts supports of its own in the
    place of those it is given, from s backwards; `order`, at least 1, is how many.

    Example:
        >>> weights = adams_bashforth(torch.tensor([1.0, 0.75, 0.5, 0.25, 0.0]), 2, 3, order=2)
        >>> {step: round(w, 6) for step, w in weights.items()}
        {2: -0.375, 1: 0.125}

    Reference: arXiv 2606.11075, section 3; Hairer, Norsett and Wanner, "Solving Ordinary
    Differential Equations I", III.1.
    """
    _check_order(order)
    levels, _ = _nodes(sigmas, start, stop, supports)
    behind = range(start, max(start - order, -1), -1)
    return _basis_integrals(levels, behind, levels[start], levels[stop])


def multistep(
    sigmas: Tensor,
    start: int,
    stop: int,
    supports: Sequence[int] | None = None,
    /,
    *,
    order: int = 2,
) -> dict[int, float]:
    """Extrapolation inside a segment: each interval continues the supports behind it.

    The stretch from support m to the next one (the last: to t) is integrated with the polynomial
    through the `order` latest supports up to m, fewer at the beginning. Order 1 is `euler`.

    Arguments, returns and errors are `euler`'s; `order`, at least 1, is how many supports the
    extrapolation uses.

    Example:
        >>> weights = multistep(torch.tensor([1.0, 0.75, 0.5, 0.25, 0.0]), 0, 3)
        >>> {step: round(w, 6) for step, w in weights.items()}
        {0: -0.125, 1: -0.25, 2: -0.375}

    Reference: Hairer, Norsett and Wanner, "Solving Ordinary Differential Equations I", III.1, with
    lower orders at the beginning of every segment in place of earlier steps.
    """
    _check_order(order)
    levels, steps = _nodes(sigmas, start, stop, supports)
    bounds = [levels[start], *(levels[i] for i in steps[1:]), levels[stop]]
    weights = dict.fromkeys(steps, 0.0)
    for m in range(len(steps)):
        behind = steps[max(0, m - order + 1) : m + 1]
        pieces = _basis_integrals(levels, behind, bounds[m], bounds[m + 1])
        for step, piece in pieces.items():
            weights[step] += piece
    return weights


def _check_order(order: int) -> None:
    if order < 1:
        raise ValueError(f"`order` must be >= 1, got {order}; 1 is Euler, 2 the usual choice")


def _basis_integrals(
    levels: Sequence[float], steps: Sequence[int], lower: float, upper: float
) -> dict[int, float]:
    """The integral over [lower, upper] of the Lagrange basis polynomial of each of some steps."""
    x = torch.tensor([levels[i] for i in steps], dtype=torch.float64)
    points, point_weights = _gauss_legendre(len(steps) // 2 + 1)
    at = lower + (upper - lower) * (points + 1) / 2
    own = torch.eye(len(steps), dtype=torch.bool)
    gaps = (x[:, None] - x[None, :]).masked_fill(own, 1.0)
    factors = (at[:, None, None] - x[None, None, :]) / gaps[None]
    basis = factors.masked_fill(own[None], 1.0).prod(dim=-1)
    integrals: list[float] = ((upper - lower) / 2 * point_weights @ basis).tolist()
    return dict(zip(steps, integrals, strict=True))


def _gauss_legendre(count: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights on [-1, 1], exact to degree 2 count - 1 (Golub and Welsch)."""
    k = torch.arange(1, count, dtype=torch.float64)
    off = k / torch.sqrt(4 * k**2 - 1)
    points, vectors = torch.linalg.eigh(torch.diag(off, 1) + torch.diag(off, -1))
    return points, 2 * vectors[0] ** 2
