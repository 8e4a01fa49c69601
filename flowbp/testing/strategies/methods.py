"""Every method, with parameters that are legal on a grid."""

from __future__ import annotations

from functools import partial

from hypothesis import strategies as st

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
    Plan,
    ReFL,
    Sparse,
    Surrogate,
    UniformPair,
    Variant,
    adams_bashforth,
    euler,
    lagrange,
    uniform,
)

# 0, or nothing so small that a product of a few underflows.
UNIT = st.sampled_from((0.0, 1.0)) | st.floats(1e-6, 1)
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


def surrogate_methods(steps: int) -> st.SearchStrategy[Method[Surrogate]]:
    """Methods that draw surrogates on a grid of `steps` steps.

    Example:
        >>> from hypothesis import find
        >>> find(surrogate_methods(1), lambda method: True)
        ReFL(last=1)
    """
    counts = st.integers(1, steps)
    choices: list[st.SearchStrategy[Method[Surrogate]]] = [
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


def methods(steps: int) -> st.SearchStrategy[Method[Plan]]:
    """Every method of the library, DRaFT included, on a grid of `steps` steps.

    Example:
        >>> from flowbp.core import DRaFT
        >>> from hypothesis import find
        >>> find(methods(4), lambda method: isinstance(method, DRaFT))
        DRaFT(last=1)
    """
    draft: st.SearchStrategy[Method[Plan]] = st.builds(DRaFT, last=st.integers(1, steps))
    surrogate: st.SearchStrategy[Method[Plan]] = surrogate_methods(steps)
    return surrogate | draft


@st.composite
def variants(draw: st.DrawFn, steps: int) -> Variant:
    """A method with at least one axis replaced, any of the four, on a grid of `steps` steps.

    Args:
        draw: given by Hypothesis.
        steps: N.

    Example:
        >>> from hypothesis import find
        >>> find(variants(4), lambda variant: variant.alpha == 1).alpha
        1.0
    """
    quadratures = [euler, lagrange, uniform, adams_bashforth, partial(adams_bashforth, order=3)]
    actives = st.one_of(
        st.just(EveryStep()),
        st.builds(FirstSteps, st.integers(1, 3)),
        st.builds(LateBiased, st.integers(1, 3), BIASES),
    )
    replaced = {
        "reward_input": st.sampled_from(["sample", "posterior_mean"]),
        "alpha": UNIT,
        "quadrature": st.sampled_from(quadratures),
        "active": actives,
    }
    method = draw(surrogate_methods(steps))
    if not isinstance(method, (LeapAlign, Bridge, Lagrange)):
        del replaced["alpha"]  # only these always have a joint for it to act at
    axes = draw(st.sets(st.sampled_from(sorted(replaced)), min_size=1))
    return Variant(method, **{axis: draw(replaced[axis]) for axis in sorted(axes)})  # type: ignore[arg-type]


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
