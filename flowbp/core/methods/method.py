"""What a method is: a frozen value that draws the surrogate of one training step."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Sequence
from typing import Protocol, runtime_checkable

import attrs
import torch
from torch import Tensor

from ..draws import ActiveDraw, window
from ..segments import Segment, Surrogate


class Method(Protocol):
    """A rule that draws a surrogate. It needs the grid and a generator only, so it comes first.

    Example:
        >>> @attrs.frozen
        ... class LastStep:
        ...     def draw(self, sigmas, generator):
        ...         last = len(sigmas) - 2
        ...         leap = Segment(last, last + 1, {last: -float(sigmas[last])}, {last: 1.0})
        ...         return Surrogate((leap,))
        >>> draw_surrogate(LastStep(), torch.linspace(1, 0, 5), torch.Generator()).horizon
        4
    """

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

    Example:
        >>> from flowbp.core import Sparse
        >>> isinstance(Sparse(), Scaled)
        True
    """

    def scaled(self, segments: Sequence[Segment]) -> tuple[Segment, ...]:
        """The segments, in order, with the method's scale at each of their active steps."""
        ...


@runtime_checkable
class Activated(Protocol):
    """A method that chooses its active steps among whatever supports its segments have.

    `Variant` asks it again when it replaces the quadrature, which may bring other supports.

    Example:
        >>> from flowbp.core import Lagrange
        >>> Lagrange(active=2).active_draw
        FirstSteps(count=2)
    """

    @property
    def active_draw(self) -> ActiveDraw | None:
        """The rule; None for a method that draws them before there are supports."""
        ...


def draw_surrogate(method: Method, sigmas: Tensor, generator: torch.Generator) -> Surrogate:
    """What a method draws, refused if it is no surrogate: the way to call a method of any origin.

    Args:
        method: draws it.
        sigmas: (N+1,) noise levels from 1 to 0.
        generator: source of every random choice.

    Raises:
        TypeError: the method's `draw` returns something else.
        ValueError: the method does not fit the grid.

    Example:
        >>> from flowbp.core import DRaFT
        >>> draw_surrogate(DRaFT(last=2), torch.linspace(1, 0, 5), torch.Generator()).horizon
        4
    """
    drawn: object = method.draw(sigmas, generator)
    if not isinstance(drawn, Surrogate):
        raise TypeError(
            f"{type(method).__name__}.draw must return a flowbp.Surrogate, got "
            f"{reprlib.repr(drawn)}; return Surrogate(segments), made of flowbp.Segment values"
        )
    return drawn


def rescale(weights: Iterable[float], active: Iterable[float], strength: float) -> float:
    """`1 + rho (sum |w| / sum over active |w| - 1)`, the common scale of the active gradients."""
    whole, kept = sum(map(abs, weights)), sum(map(abs, active))
    # Where the active weights are all zero, up to rounding, there is no gradient to scale.
    return 1 + strength * (whole / kept - 1) if kept > 1e-8 * whole else 1.0


def scaled_over_window(
    segments: Sequence[Segment], tail: float, strength: float
) -> tuple[Segment, ...]:
    """The segments with one scale for all active steps: both sums of `rescale` over the window."""
    pool = window(segments[-1].stop, tail)
    weights = [w for each in segments for i, w in each.weights.items() if i in pool]
    active = [each.weights[i] for each in segments for i in each.active if i in pool]
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
