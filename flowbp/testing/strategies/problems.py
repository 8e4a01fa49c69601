"""Random fields, noise and generators."""

from __future__ import annotations

import torch
from hypothesis import strategies as st

from flowbp.testing.problem import Problem, random_problem

from .grids import grids


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
