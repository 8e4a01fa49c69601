"""Hypothesis strategies of this library's own methods, pair draws and variants."""

from __future__ import annotations

from functools import partial

from hypothesis import assume
from hypothesis import strategies as st
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
    ReFL,
    Sparse,
    UniformPair,
    Variant,
    adams_bashforth,
    euler,
    lagrange,
    multistep,
    uniform,
)

# 0, or nothing so small that a product of a few underflows.
UNIT = st.sampled_from((0.0, 1.0)) | st.floats(1e-6, 1)
BIASES = st.floats(0, 6)
TAUS = st.floats(0.01, 2)
CONCENTRATIONS = st.floats(0.2, 8)


def pairs(steps: int) -> st.SearchStrategy[PairDraw]:
    """Pair draws that a window of `steps` >= 2 steps can serve."""
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
    """The seven published methods, of one or two segments, on a grid of `steps` steps."""
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
    """Every method of the library, DRaFT included, on a grid of `steps` steps."""
    draft: st.SearchStrategy[Method] = st.builds(DRaFT, last=st.integers(1, steps))
    return published_methods(steps) | draft


@st.composite
def variants(draw: st.DrawFn, sigmas: Tensor) -> Variant:
    """A method with at least one axis replaced, any of the four, each to some effect on a grid."""
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
