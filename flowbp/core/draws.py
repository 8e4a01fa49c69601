"""Random choices of steps: windows, pairs and active sets, all from an explicit generator."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import attrs
import torch

from flowbp.validators import integer, real


def window(steps: int, tail: float) -> range:
    """The last `ceil(tail * steps)` steps of the grid."""
    # The subtraction keeps products such as 0.07 * 100 = 7.000000000000001 from growing a step.
    return range(steps - max(1, math.ceil(tail * steps - 1e-9)), steps)


def uniform_step(steps: range, generator: torch.Generator) -> int:
    """One step of a range, each equally likely."""
    return steps[int(torch.randint(len(steps), (), generator=generator, device=generator.device))]


def late_biased(
    pool: Sequence[int], count: int, bias: float, generator: torch.Generator, *, origin: int = 0
) -> tuple[int, ...]:
    """`count` distinct steps of `pool`, drawn one after another, late steps preferred.

    Step i has probability proportional to `(i - origin + 1)^bias` among those not yet drawn.

    Args:
        pool: the steps to choose from, none before `origin`.
        count: how many, at most `len(pool)`.
        bias: the exponent; 0 draws uniformly.
        generator: source of the draw.
        origin: the step that counts as 0.

    Returns:
        The steps in ascending order.

    Raises:
        ValueError: the pool is too small.

    Example:
        >>> late_biased(range(4), 4, 2.0, torch.Generator().manual_seed(0))
        (0, 1, 2, 3)

    Reference: arXiv 2606.11075, section 4; Gumbel top-k: Kool et al., arXiv 1903.06059.
    """
    if not 0 <= count <= len(pool):
        raise ValueError(f"`count` must be in [0, {len(pool)}], the pool's size, got {count}")
    ranks = torch.tensor([i - origin + 1 for i in pool], dtype=torch.float64)
    draw = torch.rand(len(pool), dtype=torch.float64, generator=generator, device=generator.device)
    keys = bias * ranks.log() - (-draw.cpu().log()).log()
    return tuple(sorted(pool[m] for m in keys.topk(count).indices.tolist()))


class PairDraw(Protocol):
    """Draws two steps `k < j`, j from a window at the end of the grid.

    Example:
        >>> @attrs.frozen
        ... class Outermost:
        ...     def draw(self, steps, generator):
        ...         return steps[0], steps[-1]
        >>> Outermost().draw(range(10), torch.Generator())
        (0, 9)
    """

    def draw(self, steps: range, generator: torch.Generator) -> tuple[int, int]:
        """`(k, j)` with `0 <= k < j`; j lies in `steps`, after the first of them.

        k may come before the window, as `MidpointJPair`'s does.

        Args:
            steps: the window, up to the last step of the grid.
            generator: source of every random choice.
        """
        ...


def drawn_pair(pair: PairDraw, steps: range, generator: torch.Generator) -> tuple[int, int]:
    """What `pair` draws from a window, refused if it is no such pair."""
    k, j = pair.draw(steps, generator)
    if not 0 <= k < j or j not in steps[1:]:
        raise ValueError(
            f"`pair` must draw (k, j) with 0 <= k < j and j in [{steps[0] + 1}, {steps.stop}), "
            f"got {(k, j)} from {type(pair).__name__}; correct its `draw`"
        )
    return k, j


def _need(steps: range, least: int, name: str) -> None:
    if len(steps) < least:
        raise ValueError(
            f"`steps` must hold at least {least} steps for {name}, got {len(steps)}; "
            "use a finer grid or a longer tail"
        )


@attrs.frozen
class UniformPair:
    """Two distinct steps, every pair equally likely.

    Example:
        >>> k, j = UniformPair().draw(range(25), torch.Generator().manual_seed(0))
        >>> 0 <= k < j < 25
        True

    Reference: arXiv 2606.11075, section 4.
    """

    def draw(self, steps: range, generator: torch.Generator) -> tuple[int, int]:
        _need(steps, 2, "UniformPair")
        k, j = late_biased(steps, 2, 0.0, generator, origin=steps[0])
        return k, j


@attrs.frozen
class DirichletPair:
    """The steps split into start, gap and end parts in proportions of a Dirichlet draw.

    The lengths are rounded, at least 1 each, and their remainder goes to the largest. The gap
    lies between k and j; the end part counts the steps after j.

    Args:
        end: concentration of the part after j, > 0.
        gap: concentration of the part between k and j, > 0.
        start: concentration of the part before k, > 0.
        cap: longest end part; what is above goes to the start, so that the gap is kept.

    Raises:
        ValueError: a concentration is not positive, or `cap` is below 1.

    Example:
        >>> pair = DirichletPair(end=2.5, gap=6, start=2, cap=9)
        >>> k, j = pair.draw(range(25), torch.Generator().manual_seed(0))
        >>> 0 <= k < j and j >= 15
        True

    Reference: arXiv 2606.11075, section 4.
    """

    end: float = attrs.field(validator=real(0, above=True))
    gap: float = attrs.field(validator=real(0, above=True))
    start: float = attrs.field(validator=real(0, above=True))
    cap: int | None = attrs.field(default=None, validator=attrs.validators.optional(integer(1)))

    def draw(self, steps: range, generator: torch.Generator) -> tuple[int, int]:
        _need(steps, 3, "DirichletPair")
        concentrations = torch.tensor([self.end, self.gap, self.start], dtype=torch.float64)
        # torch.distributions takes no generator; this is the draw beneath its Dirichlet.
        gammas = torch._standard_gamma(concentrations.to(generator.device), generator=generator)
        gammas = gammas.clamp(min=torch.finfo(torch.float64).tiny)
        shares: list[float] = (gammas / gammas.sum()).tolist()
        end, gap, _ = _rounded(shares, len(steps))
        end = end if self.cap is None else min(end, self.cap)
        j = steps[len(steps) - 1 - end]
        return j - gap, j


def _rounded(shares: Sequence[float], total: int) -> list[int]:
    """Whole parts of at least 1 near `shares * total` that sum to `total`."""
    parts = [max(1, round(share * total)) for share in shares]
    while (missing := total - sum(parts)) != 0:
        largest = max(range(len(parts)), key=lambda m: (parts[m], shares[m]))
        parts[largest] += missing if missing > 0 else -1
    return parts


@attrs.frozen
class MidpointPair:
    """k uniform, j halfway between k and the end.

    Example:
        >>> k, j = MidpointPair().draw(range(25), torch.Generator().manual_seed(0))
        >>> j == (k + 25) // 2
        True

    Reference: arXiv 2606.11075, section 4.
    """

    def draw(self, steps: range, generator: torch.Generator) -> tuple[int, int]:
        _need(steps, 2, "MidpointPair")
        k = uniform_step(steps[:-1], generator)
        return k, (k + steps.stop) // 2


@attrs.frozen
class MidpointJPair:
    """j uniform in the window after its first step, k halfway between step 0 and j.

    k is counted from the start of the grid, not of the window, and may come before the window.

    Example:
        >>> k, j = MidpointJPair().draw(range(25), torch.Generator().manual_seed(0))
        >>> k == j // 2
        True

    Reference: arXiv 2606.11075, section 4.
    """

    def draw(self, steps: range, generator: torch.Generator) -> tuple[int, int]:
        _need(steps, 2, "MidpointJPair")
        j = uniform_step(steps[1:], generator)
        return j // 2, j


class ActiveDraw(Protocol):
    """Chooses which supports of a segment are active.

    Example:
        >>> @attrs.frozen
        ... class LastStep:
        ...     def draw(self, supports, generator):
        ...         return (max(supports),)
        >>> LastStep().draw((0, 2, 5), torch.Generator())
        (5,)
    """

    def draw(self, supports: Sequence[int], generator: torch.Generator) -> tuple[int, ...]:
        """Some of `supports`: the segment's in sampling order, then any before it, nearest first.

        Args:
            supports: distinct steps.
            generator: source of every random choice.
        """
        ...


@attrs.frozen
class EveryStep:
    """Every support is active.

    Example:
        >>> EveryStep().draw((0, 2), torch.Generator())
        (0, 2)
    """

    def draw(self, supports: Sequence[int], generator: torch.Generator) -> tuple[int, ...]:
        return tuple(supports)


@attrs.frozen
class FirstSteps:
    """The first `count` supports from the segment's start, or all if there are fewer.

    Args:
        count: the active steps of a segment, at least 1.

    Example:
        >>> FirstSteps(1).draw((0, 2), torch.Generator())
        (0,)
    """

    count: int = attrs.field(validator=integer(1))

    def draw(self, supports: Sequence[int], generator: torch.Generator) -> tuple[int, ...]:
        return tuple(supports[: self.count])


@attrs.frozen
class LateBiased:
    """`count` supports drawn with probability proportional to `(i + 1)^bias`, or all if fewer.

    Args:
        count: the active steps that are drawn, at least 1.
        bias: the exponent; 0 draws uniformly.

    Example:
        >>> LateBiased(count=2, bias=1.0).draw((0, 2), torch.Generator())
        (0, 2)
    """

    count: int = attrs.field(validator=integer(1))
    bias: float = attrs.field(default=2.0, validator=real(0))

    def draw(self, supports: Sequence[int], generator: torch.Generator) -> tuple[int, ...]:
        return late_biased(supports, min(self.count, len(supports)), self.bias, generator)
