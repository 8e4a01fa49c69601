"""What a method is: a frozen value that draws the plan of one training step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, TypeVar, runtime_checkable

import attrs
import torch
from torch import Tensor

from ..draws import window
from ..plan import Plan, Segment
from .active import ActiveDraw

PlanT = TypeVar("PlanT", bound=Plan, covariant=True)
KeyT = TypeVar("KeyT")


class Method(Protocol[PlanT]):
    """A rule that draws a plan. The draw needs the grid and a generator, so it comes first."""

    def draw(self, sigmas: Tensor, generator: torch.Generator) -> PlanT:
        """The plan of one training step.

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
