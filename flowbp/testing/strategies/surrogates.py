"""Arbitrary surrogates, beyond those that the named methods draw."""

from __future__ import annotations

import itertools

from hypothesis import strategies as st
from torch import Tensor

from flowbp.core import (
    Quadrature,
    Segment,
    Surrogate,
    adams_bashforth,
    euler,
    lagrange,
    multistep,
    uniform,
)

# 0, or nothing so small that a product of a few underflows.
GAMMAS = st.sampled_from((0.0, 1.0)) | st.floats(1e-6, 2.0)
ALPHAS = st.sampled_from((0.0, 1.0)) | st.floats(1e-6, 1.0)


@st.composite
def segments(draw: st.DrawFn, sigmas: Tensor, start: int, stop: int) -> Segment:
    """A segment with random supports, also before its start, weights, active steps and scales.

    Args:
        draw: given by Hypothesis.
        sigmas: (N+1,).
        start: s.
        stop: t.

    Example:
        >>> import torch
        >>> from hypothesis import find
        >>> sigmas = torch.tensor([1.0, 0.5, 0.0])
        >>> find(segments(sigmas, 0, 2), lambda segment: len(segment.weights) == 2).start
        0
    """
    steps = st.sampled_from(range(start, stop))
    supports = tuple(sorted(draw(st.sets(steps, min_size=1, max_size=5))))
    rules: list[Quadrature] = [euler, lagrange, uniform, multistep, adams_bashforth]
    weights = draw(st.sampled_from(rules))(sigmas, start, stop, supports)
    if start and draw(st.booleans()):
        # Any weights that sum to the same: some of one is moved to an earlier step.
        earlier = draw(st.sampled_from(range(start)))
        moved = draw(st.floats(0.1, 0.9)) * weights[max(weights)]
        weights[earlier] = weights.get(earlier, 0.0) + moved
        weights[max(weights)] -= moved
    active = draw(st.dictionaries(st.sampled_from(sorted(weights)), GAMMAS, min_size=1))
    return Segment(start, stop, weights, active)


@st.composite
def surrogates(draw: st.DrawFn, sigmas: Tensor) -> Surrogate:
    """One or two random segments that end at N, alpha, and what the reward reads.

    Args:
        draw: given by Hypothesis.
        sigmas: (N+1,).

    Example:
        >>> import torch
        >>> from hypothesis import find
        >>> sigmas = torch.linspace(1, 0, 5)
        >>> find(surrogates(sigmas), lambda plan: len(plan.segments) == 2).segments[-1].stop
        4
    """
    steps = sigmas.shape[0] - 1
    inner = st.sets(st.integers(1, steps - 1), max_size=1) if steps > 1 else st.just(set())
    joints = sorted(draw(inner))
    first = draw(st.integers(0, (joints or [steps])[0] - 1))
    bounds = [first, *joints, steps]
    parts = [draw(segments(sigmas, start, stop)) for start, stop in itertools.pairwise(bounds)]
    return Surrogate(
        tuple(parts),
        alpha=draw(ALPHAS) if len(parts) == 2 else 0.0,
        reward_input=draw(st.sampled_from(["sample", "posterior_mean"])),
    )
