"""What a method is: a frozen value that draws the plan of one training step."""

from __future__ import annotations

from typing import Protocol, TypeVar

import torch
from torch import Tensor

from ..plan import Plan

PlanT = TypeVar("PlanT", bound=Plan, covariant=True)


class Method(Protocol[PlanT]):
    """A rule that draws a plan. The draw needs the grid and a generator, so it comes first."""

    def draw(self, sigmas: Tensor, generator: torch.Generator) -> PlanT:
        """The plan of one training step.

        Args:
            sigmas: (N+1,) noise levels from 1 to 0.
            generator: source of every random choice.
        """
        ...


def rescale(weights: dict[int, float], active: tuple[int, ...], strength: float) -> float:
    """`1 + rho (sum |w| / sum over active |w| - 1)`, the common scale of the active gradients.

    1 if the active weights are all zero, up to rounding: there is no gradient to scale.
    """
    whole = sum(abs(w) for w in weights.values())
    kept = sum(abs(weights[i]) for i in active)
    if kept <= 1e-8 * whole:
        return 1.0
    return 1 + strength * (whole / kept - 1)
