"""Random noise schedules."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import Tensor


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
