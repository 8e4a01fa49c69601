"""Conformance of methods: their draws are pure and their plans legal."""

from __future__ import annotations

import torch
from torch import Tensor

from flowbp.core import Method, Plan

from .problem import random_problem
from .streamed import check_streamed


def check_plan(plan: Plan, sigmas: Tensor) -> None:
    """Assert that a plan is a legal path on a grid.

    Its segments join and end at N; supports come before their segment's end, active steps are
    among them;
    each segment's weights sum to `sigma_t - sigma_s`; alpha is in [0, 1]; the horizon covers what
    is read and no more; some step is active.

    Args:
        plan: what a method drew.
        sigmas: (N+1,), the grid it was drawn on.

    Raises:
        AssertionError: says which of these does not hold.

    Example:
        >>> from flowbp.core import Sparse
        >>> sigmas = torch.linspace(1, 0, 9)
        >>> check_plan(Sparse(active=2).draw(sigmas, torch.Generator()), sigmas)

    Reference: arXiv 2606.11075, section 3.
    """
    levels, segments = sigmas.double().tolist(), plan.segments
    steps = len(levels) - 1
    joints = [segment.stop for segment in segments]
    if joints[-1] != steps or [each.start for each in segments[1:]] != joints[:-1]:
        raise AssertionError(
            f"`segments` must join and end at {steps}, got "
            f"{[(each.start, each.stop) for each in segments]}"
        )
    if not any(each.active for each in segments):
        raise AssertionError("`segments` must hold an active step, got none: no gradient")
    if not 0 <= plan.alpha <= 1:
        raise AssertionError(f"`alpha` must be in [0, 1], got {plan.alpha}")
    for segment in segments:
        before = all(0 <= i < segment.stop for i in segment.weights)
        if not before or not set(segment.active) <= set(segment.weights):
            raise AssertionError(
                f"supports must come before their segment's end and hold `active`: {segment}"
            )
        total, wanted = sum(segment.weights.values()), levels[segment.stop] - levels[segment.start]
        # Extrapolation cancels: its rounding is that of the largest weight.
        size = max(abs(wanted), 1e-6 * max(map(abs, segment.weights.values())))
        if abs(total - wanted) > 1e-6 * size:
            raise AssertionError(f"`weights` must sum to {wanted}, got {total} in {segment}")
    reads_sample = plan.reward_input == "sample"
    reached = max(segments[-1].start, max(segments[-1].weights) + 1)
    horizon = steps if reads_sample else reached
    if plan.horizon != horizon:
        raise AssertionError(
            f"`horizon` must be {horizon} for a plan that reads the {plan.reward_input}, "
            f"got {plan.horizon}"
        )


def check_method(
    method: Method[Plan],
    *,
    sigmas: Tensor | None = None,
    draws: int = 5,
    seed: int = 0,
    tolerance: float = 1e-10,
) -> None:
    """Assert that a method is a rule the library can run.

    Every draw is a legal plan (`check_plan`) and a pure function of the grid and the generator;
    the reward reads the cached value; nothing cached is changed; the streamed gradient of both
    pulls is the joint graph's, on a random non-linear field in float64; a surrogate has at most
    one Jacobian factor on every path.

    Args:
        method: to be checked.
        sigmas: (N+1,), the grid; 25 uniform steps if not given. Give one that the method accepts.
        draws: how many plans are drawn and checked.
        seed: of the draws and of the field.
        tolerance: of the gradients, relative to their largest entry.

    Raises:
        AssertionError: says what does not hold.

    Example:
        >>> from flowbp.core import Bridge
        >>> check_method(Bridge(active=3), draws=1)

    Reference: arXiv 2606.11075, sections 3 and 4.
    """
    levels = torch.linspace(1, 0, 26) if sigmas is None else sigmas
    for draw in range(draws):
        plan = _pure_draw(method, levels, seed + draw)
        check_plan(plan, levels)
        problem = random_problem(levels, event=(2, 2), batch=2, seed=seed + draw)
        check_streamed(plan, problem, tolerance=tolerance)


def _pure_draw(method: Method[Plan], sigmas: Tensor, seed: int) -> Plan:
    state, grids = torch.random.get_rng_state(), [sigmas.clone(), sigmas.clone()]
    first, second = (method.draw(grid, torch.Generator().manual_seed(seed)) for grid in grids)
    if not all(torch.equal(grid, sigmas) for grid in grids):
        raise AssertionError("`draw` must not change `sigmas`, but it did")
    if first != second:
        raise AssertionError(
            f"`draw` must depend on nothing but the grid and the generator, got {first} and "
            f"{second} from the same seed"
        )
    if not torch.equal(torch.random.get_rng_state(), state):
        raise AssertionError("`draw` must use its generator only, but it advanced torch's own")
    return first
