"""What a method is: a frozen value that draws the surrogate of one training step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, TypeVar, runtime_checkable

import attrs
import torch
from torch import Tensor

from ..draws import ActiveDraw, window
from ..segments import Segment, Surrogate

KeyT = TypeVar("KeyT")


class Method(Protocol):
    """A rule that draws a surrogate. It needs the grid and a generator only, so it comes first."""

    def draw(self, sigmas: Tensor, generator: torch.Generator) -> Surrogate:
        """The surrogate of one training step.

        Args:
            sigmas: (N+1,) noise levels from 1 to 0.
            generator: source of every random choice.
        """
        ...


@runtime_checkable
class Scaled(Protocol):
    """A method whose gradient scales follow from its weights and active steps.

    `Variant` asks for them again when it replaces either.
    """

    def scaled(self, segments: Sequence[Segment]) -> tuple[Segment, ...]:
        """The segments, in order, with the method's scale at each of their active steps."""
        ...


@runtime_checkable
class Activated(Protocol):
    """A method that chooses its active steps among whatever supports its segments have.

    `Variant` asks it again when it replaces the quadrature, which may bring other supports.
    """

    @property
    def active_draw(self) -> ActiveDraw | None:
        """The rule; None for a method that draws them before there are supports."""
        ...


def rescale(weights: Mapping[KeyT, float], active: Iterable[KeyT], strength: float) -> float:
    """`1 + rho (sum |w| / sum over active |w| - 1)`, the common scale of the active gradients.

    1 if the active weights are all zero, up to rounding: there is no gradient to scale.
    """
    whole = sum(abs(w) for w in weights.values())
    kept = sum(abs(weights[i]) for i in active)
    if kept <= 1e-8 * whole:
        return 1.0
    return 1 + strength * (whole / kept - 1)


def scaled_over_window(
    segments: Sequence[Segment], tail: float, strength: float
) -> tuple[Segment, ...]:
    """The segments with one scale for all active steps: both sums of `rescale` over the window."""
    pool = window(segments[-1].stop, tail)
    # By segment and step, as two segments may share a support.
    weights = {
        (n, i): w for n, each in enumerate(segments) for i, w in each.weights.items() if i in pool
    }
    active = [(n, i) for n, each in enumerate(segments) for i in each.active if i in pool]
    gamma = rescale(weights, active, strength)
    return tuple(attrs.evolve(each, active=dict.fromkeys(each.active, gamma)) for each in segments)


def fits_grid(name: str, value: int, low: int, steps: int) -> None:
    """Refuse a count that the grid of `steps` steps cannot give."""
    if not low <= value <= steps:
        raise ValueError(
            f"`{name}` must be in [{low}, {steps}], got {value}; "
            f"the grid has {steps} {'step' if steps == 1 else 'steps'}"
        )


def fits_window(count: int, low: int, pool: range, steps: int) -> None:
    """Refuse a count that the window cannot give."""
    if len(pool) < low:
        raise ValueError(
            f"`sigmas` must leave a window of at least {low} steps, got {len(pool)} of {steps}; "
            "use a finer grid or raise `tail`"
        )
    if len(pool) == steps:
        fits_grid("active", count, low, steps)
    elif count > len(pool):
        raise ValueError(
            f"`active` must be in [{low}, {len(pool)}], got {count}; the window holds {len(pool)} "
            f"of the grid's {steps} steps; raise `tail`"
        )
