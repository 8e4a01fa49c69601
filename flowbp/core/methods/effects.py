"""Which replaced axes of a method change what it draws, and which cannot."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from ..plan import Surrogate
from ..quadrature import euler

DRAWS = 500
"""What one draw in 25 shows is missed by all of so many once in 10^9."""

# Relative to the largest weight: grids may be of single precision.
_SAME = 1e-5


def unchanged(
    axes: Sequence[str], sigmas: Tensor, base: Surrogate, varied: Surrogate
) -> tuple[str, ...]:
    """Those of `axes` whose replacement changes neither the value nor the gradient of a draw."""
    tests = {
        "reward_input": _same_reading,
        "alpha": _same_bridge,
        "quadrature": _same_weights,
        "active": _same_active,
    }
    return tuple(axis for axis in axes if tests[axis](sigmas, base, varied))


def without_effect(
    values: Mapping[str, object],
    method: object,
    sigmas: Tensor,
    draw: Callable[[torch.Generator], tuple[Surrogate, Surrogate]],
) -> dict[str, str]:
    """The axes that are unchanged in `DRAWS` draws, each with the reason and a cure.

    Args:
        values: what each axis is replaced by.
        method: what is varied.
        sigmas: (N+1,).
        draw: gives the method's surrogate, and the varied one.
    """
    left, generator = tuple(values), torch.Generator().manual_seed(0)
    for _ in range(DRAWS):
        base, varied = draw(generator)
        left = unchanged(left, sigmas, base, varied)
        if not left:
            return {}
    return {
        axis: f"`{axis}` must change what {type(method).__name__} draws, got {_shown(values[axis])}"
        f", but {_reason(axis, base, varied)}"
        for axis in left
    }


def _same_reading(sigmas: Tensor, base: Surrogate, varied: Surrogate) -> bool:
    if varied.reward_input == base.reward_input:
        return True
    # A segment of the sampler's own steps predicts the sample, bit for bit but for rounding.
    last = varied.segments[-1]
    return _equal(last.weights, euler(sigmas, last.start, last.stop))


def _same_bridge(_: Tensor, base: Surrogate, varied: Surrogate) -> bool:
    if varied.alpha == base.alpha or len(varied.segments) == 1:
        return True
    before, after = varied.segments
    reaches = after.weights.get(after.start, 0) * after.active.get(after.start, 0) != 0
    return not (reaches and any(before.weights[i] * scale for i, scale in before.active.items()))


def _same_weights(_: Tensor, base: Surrogate, varied: Surrogate) -> bool:
    pairs = zip(base.segments, varied.segments, strict=True)
    return all(_equal(old.weights, new.weights) for old, new in pairs)


def _same_active(_: Tensor, base: Surrogate, varied: Surrogate) -> bool:
    pairs = zip(base.segments, varied.segments, strict=True)
    return all(set(old.active) == set(new.active) for old, new in pairs)


def _equal(left: Mapping[int, float], right: Mapping[int, float]) -> bool:
    size = max(map(abs, (*left.values(), *right.values())))
    gaps = (abs(left.get(i, 0.0) - right.get(i, 0.0)) for i in {*left, *right})
    return max(gaps) <= _SAME * size


def _reason(axis: str, base: Surrogate, varied: Surrogate) -> str:
    if axis in ("reward_input", "alpha") and getattr(varied, axis) == getattr(base, axis):
        bridge = axis == "alpha" and len(varied.segments) == 1
        return "it has no joint; leave it out" if bridge else "that is what it has; leave it out"
    return {
        "reward_input": "the prediction of its last segment, which takes the sampler's own steps, "
        "is the sample; leave it out, or replace `quadrature` too",
        "alpha": "no Jacobian of it reaches an active step; leave it out",
        "quadrature": "that gives its segments the weights they have, as every rule does with one "
        "support; leave it out",
        "active": "that chooses the steps that are active already; leave it out",
    }[axis]


def _shown(value: object) -> str:
    rule = getattr(value, "func", value)
    return getattr(rule, "__name__", repr(value))
