"""Hypothesis strategies: grids, random problems, and surrogates that fit them."""

from __future__ import annotations

import itertools

try:
    from hypothesis import strategies as st
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "`hypothesis` is needed for flowbp.testing.strategies and is not installed; "
        'run: pip install "flowbp-align[testing]"',
        name="hypothesis",
    ) from error

import torch
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

from .problem import Problem, random_problem

# 0, or nothing so small that a product of a few underflows.
UNIT = st.sampled_from((0.0, 1.0)) | st.floats(1e-6, 1)
GAMMAS = st.sampled_from((0.0, 1.0)) | st.floats(1e-6, 2.0)


@st.composite
def grids(draw: st.DrawFn, min_steps: int = 1, max_steps: int = 8) -> Tensor:
    """Noise levels (N+1,) that fall from at most 1 to exactly 0, uneven up to a factor of 20."""
    gaps = draw(st.lists(st.integers(1, 20), min_size=min_steps, max_size=max_steps))
    first = draw(st.sampled_from([1.0, 0.9375]))
    rest = torch.tensor([sum(gaps[i:]) for i in range(len(gaps) + 1)], dtype=torch.float64)
    return first * rest / rest[0]


def events() -> st.SearchStrategy[tuple[int, ...]]:
    """Shapes of one sample, of every rank from 0 to 4."""
    return st.sampled_from([(), (3,), (2, 2), (2, 1, 2), (1, 2, 1, 2)])


def generators() -> st.SearchStrategy[torch.Generator]:
    """Fresh seeded generators on the CPU."""
    return st.integers(0, 2**31 - 1).map(lambda seed: torch.Generator().manual_seed(seed))


@st.composite
def problems(
    draw: st.DrawFn, *, min_steps: int = 1, max_steps: int = 8, max_batch: int = 3
) -> Problem:
    """A random non-linear field in float64 with noise and a grid."""
    return random_problem(
        draw(grids(min_steps, max_steps)),
        event=draw(events()),
        batch=draw(st.integers(1, max_batch)),
        seed=draw(st.integers(0, 10**6)),
    )


@st.composite
def segments(draw: st.DrawFn, sigmas: Tensor, start: int, stop: int) -> Segment:
    """A segment with random supports, also before its start, weights, active steps and scales."""
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
def surrogates(
    draw: st.DrawFn, sigmas: Tensor, *, min_segments: int = 1, max_segments: int = 4
) -> Surrogate:
    """Random segments that end at N, alpha, and what the reward reads."""
    steps = sigmas.shape[0] - 1
    least, most = min_segments - 1, min(max_segments, steps) - 1
    inner = st.sets(st.integers(1, steps - 1), min_size=least, max_size=most)
    joints = sorted(draw(inner if most else st.just(set[int]())))
    first = draw(st.integers(0, (joints or [steps])[0] - 1))
    bounds = [first, *joints, steps]
    parts = [draw(segments(sigmas, start, stop)) for start, stop in itertools.pairwise(bounds)]
    return Surrogate(
        tuple(parts),
        alpha=draw(UNIT) if joints else 0.0,
        reward_input=draw(st.sampled_from(["sample", "posterior_mean"])),
    )
