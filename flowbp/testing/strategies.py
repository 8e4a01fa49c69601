"""Hypothesis strategies: grids, problems, methods with legal parameters, surrogates."""

from __future__ import annotations

try:
    from hypothesis import assume
    from hypothesis import strategies as st
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "`hypothesis` is needed for flowbp.testing.strategies and is not installed; "
        'run: pip install "flowbp[testing]"',
        name="hypothesis",
    ) from error

import itertools
from functools import partial

import torch
from torch import Tensor

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
    Method,
    MidpointJPair,
    MidpointPair,
    PairDraw,
    Quadrature,
    ReFL,
    Segment,
    Sparse,
    Surrogate,
    UniformPair,
    Variant,
    adams_bashforth,
    euler,
    lagrange,
    multistep,
    uniform,
)

from .problem import Problem, random_problem


@st.composite
def grids(draw: st.DrawFn, min_steps: int = 1, max_steps: int = 8) -> Tensor:
    """Strictly falling noise levels from at most 1 to exactly 0, uneven up to a factor of 20.

    Args:
        draw: given by Hypothesis.
        min_steps: least N.
        max_steps: largest N.

    Returns:
        (N+1,) float64.

    Example:
        >>> from hypothesis import find
        >>> find(grids(2, 2), lambda sigmas: True).tolist()
        [1.0, 0.5, 0.0]
    """
    gaps = draw(st.lists(st.integers(1, 20), min_size=min_steps, max_size=max_steps))
    first = draw(st.sampled_from([1.0, 0.9375]))
    rest = torch.tensor([sum(gaps[i:]) for i in range(len(gaps) + 1)], dtype=torch.float64)
    return first * rest / rest[0]


def events() -> st.SearchStrategy[tuple[int, ...]]:
    """Shapes of one sample, of every rank from 0 to 4.

    Example:
        >>> from hypothesis import find
        >>> find(events(), lambda event: len(event) == 2)
        (2, 2)
    """
    return st.sampled_from([(), (3,), (2, 2), (2, 1, 2), (1, 2, 1, 2)])


def generators() -> st.SearchStrategy[torch.Generator]:
    """Fresh seeded generators on the CPU.

    Example:
        >>> from hypothesis import find
        >>> find(generators(), lambda generator: True).initial_seed()
        0
    """
    return st.integers(0, 2**31 - 1).map(lambda seed: torch.Generator().manual_seed(seed))


@st.composite
def problems(
    draw: st.DrawFn, *, min_steps: int = 1, max_steps: int = 8, max_batch: int = 3
) -> Problem:
    """A random non-linear field in float64 with noise and a grid.

    Args:
        draw: given by Hypothesis.
        min_steps: least N.
        max_steps: largest N.
        max_batch: largest B.

    Example:
        >>> from hypothesis import find
        >>> find(problems(min_steps=2), lambda problem: True).noise.dtype
        torch.float64
    """
    return random_problem(
        draw(grids(min_steps, max_steps)),
        event=draw(events()),
        batch=draw(st.integers(1, max_batch)),
        seed=draw(st.integers(0, 10**6)),
    )


# 0, or nothing so small that a product of a few underflows.
UNIT = st.sampled_from((0.0, 1.0)) | st.floats(1e-6, 1)
GAMMAS = st.sampled_from((0.0, 1.0)) | st.floats(1e-6, 2.0)
BIASES = st.floats(0, 6)
TAUS = st.floats(0.01, 2)
CONCENTRATIONS = st.floats(0.2, 8)


def pairs(steps: int) -> st.SearchStrategy[PairDraw]:
    """Pair draws that a window of `steps` >= 2 steps can serve.

    Example:
        >>> from hypothesis import find
        >>> find(pairs(2), lambda pair: True)
        UniformPair()
    """
    choices: list[st.SearchStrategy[PairDraw]] = [
        st.just(UniformPair()),
        st.just(MidpointPair()),
        st.just(MidpointJPair()),
    ]
    if steps >= 3:
        caps = st.none() | st.integers(1, steps)
        three = (CONCENTRATIONS, CONCENTRATIONS, CONCENTRATIONS)
        choices.append(st.builds(DirichletPair, *three, cap=caps))
    return st.one_of(choices)


def published_methods(steps: int) -> st.SearchStrategy[Method]:
    """The seven published methods, of one or two segments, on a grid of `steps` steps.

    Example:
        >>> from hypothesis import find
        >>> find(published_methods(1), lambda method: True)
        ReFL(last=1)
    """
    counts = st.integers(1, steps)
    choices: list[st.SearchStrategy[Method]] = [
        st.builds(ReFL, last=counts),
        st.builds(DRaFTLV, noised=st.integers(0, 2)),
        _drtune(steps),
        st.builds(Sparse, active=counts, late_bias=BIASES, rescale=UNIT),
        _sparse_with_tail(steps),
    ]
    if steps >= 2:
        choices += [
            st.builds(LeapAlign, alpha=UNIT, tau=TAUS, pair=pairs(steps)),
            _bridge(steps),
            _lagrange(steps),
        ]
    return st.one_of(choices)


def methods(steps: int) -> st.SearchStrategy[Method]:
    """Every method of the library, DRaFT included, on a grid of `steps` steps.

    Example:
        >>> from flowbp.core import DRaFT
        >>> from hypothesis import find
        >>> find(methods(4), lambda method: isinstance(method, DRaFT))
        DRaFT(last=1)
    """
    draft: st.SearchStrategy[Method] = st.builds(DRaFT, last=st.integers(1, steps))
    return published_methods(steps) | draft


@st.composite
def variants(draw: st.DrawFn, sigmas: Tensor) -> Variant:
    """A method with at least one axis replaced, any of the four, each to some effect on a grid.

    Args:
        draw: given by Hypothesis.
        sigmas: (N+1,), N >= 2.

    Example:
        >>> import torch
        >>> from hypothesis import find
        >>> find(variants(torch.linspace(1, 0, 5)), lambda variant: variant.alpha == 1).alpha
        1.0
    """
    steps = sigmas.shape[0] - 1
    assume(steps > 1)  # on one step hardly anything can be varied
    ahead = [adams_bashforth, partial(adams_bashforth, order=2)]
    quadratures = [euler, lagrange, uniform, multistep, partial(multistep, order=3), *ahead]
    actives = st.one_of(
        st.just(EveryStep()),
        st.builds(FirstSteps, st.integers(1, 3)),
        st.builds(LateBiased, st.integers(1, 3), BIASES),
    )
    method = draw(methods(steps))
    predicts = isinstance(method, (ReFL, DRTune))
    one_support = isinstance(method, (ReFL, DRaFT, DRaFTLV, LeapAlign))
    has_its_own = lagrange if isinstance(method, Lagrange) else euler
    others = [rule for rule in quadratures if rule is not has_its_own]
    replaced = {
        "reward_input": st.just("sample" if predicts else "posterior_mean"),
        "alpha": UNIT,
        "quadrature": st.sampled_from(ahead if one_support else others),
        "active": actives,
    }
    if not isinstance(method, (LeapAlign, Bridge, Lagrange, DRTune, DRaFT)):
        del replaced["alpha"]  # only these have a joint for it to act at
    axes = draw(st.sets(st.sampled_from(sorted(replaced)), min_size=1))
    chosen = {axis: draw(replaced[axis]) for axis in sorted(axes)}
    own_steps = isinstance(method, (Sparse, Bridge, DRaFT, DRaFTLV)) and "reward_input" in chosen
    if own_steps or (one_support and "active" in chosen):
        chosen.setdefault("quadrature", draw(replaced["quadrature"]))  # nothing changes without
    if isinstance(method, (Sparse, Bridge, DRTune)) and chosen.get("quadrature") in ahead:
        chosen.setdefault("active", draw(actives))  # theirs are drawn from other supports
    variant = Variant(method, **chosen)  # type: ignore[arg-type]
    assume(not variant.without_effect(sigmas))
    return variant


@st.composite
def _drtune(draw: st.DrawFn, steps: int) -> DRTune:
    ratio = draw(st.floats(0.05, 1))
    reachable = steps - max(1, round(ratio * steps)) + 1
    return DRTune(active=draw(st.integers(1, reachable)), stop_ratio=ratio)


@st.composite
def _tail(draw: st.DrawFn, steps: int, least: int) -> tuple[int, float]:
    """A window's length and a tail that gives it."""
    length = draw(st.integers(least, steps))
    return length, length / steps


@st.composite
def _sparse_with_tail(draw: st.DrawFn, steps: int) -> Sparse:
    length, tail = draw(_tail(steps, 1))
    active = draw(st.integers(1, length))
    return Sparse(active=active, late_bias=draw(BIASES), rescale=draw(UNIT), tail=tail)


@st.composite
def _bridge(draw: st.DrawFn, steps: int) -> Bridge:
    length, tail = draw(_tail(steps, 2))
    return Bridge(
        active=draw(st.integers(2, length)),
        late_bias=draw(BIASES),
        rescale=draw(UNIT),
        alpha=draw(UNIT),
        pair=draw(pairs(length)),
        tail=tail,
    )


@st.composite
def _lagrange(draw: st.DrawFn, steps: int) -> Lagrange:
    length, tail = draw(_tail(steps, 2))
    order = draw(st.integers(1, 4))
    return Lagrange(
        order=order,
        active=draw(st.integers(1, order)),
        support_scale=draw(UNIT),
        alpha=draw(UNIT),
        tau=draw(TAUS),
        rescale=draw(UNIT),
        pair=draw(pairs(length)),
        tail=tail,
    )


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
def surrogates(
    draw: st.DrawFn, sigmas: Tensor, *, min_segments: int = 1, max_segments: int = 4
) -> Surrogate:
    """Random segments that end at N, alpha, and what the reward reads.

    Args:
        draw: given by Hypothesis.
        sigmas: (N+1,), N >= `min_segments`.
        min_segments: the least number of segments.
        max_segments: the largest; fewer on a grid of fewer steps.

    Example:
        >>> import torch
        >>> from hypothesis import find
        >>> sigmas = torch.linspace(1, 0, 5)
        >>> find(surrogates(sigmas, min_segments=3), lambda each: True).segments[-1].stop
        4
    """
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
