"""Directions of steps: the gradient's own, and those of Adam."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import attrs

from flowbp.study.agreement import Gradient, GradientSums

Direction = Callable[[GradientSums], Gradient]
"""Makes a direction, of any length, of what was gathered of the gradients of some batches."""


def raw(sums: GradientSums) -> Gradient:
    """The mean gradient itself, the direction of plain descent."""
    return sums.mean


@attrs.frozen(eq=False)
class Adam:
    """Adam's direction, `g / (√v + eps)`, of the mean gradient g.

    Args:
        second_moment: v by parameter, such as that of an optimizer's state; `g²` if not given, as
            in Adam's first step, whose direction is about the sign of g.
        eps: as Adam's.

    Example:
        >>> import torch
        >>> sums = GradientSums()
        >>> sums.add({"weight": torch.tensor([2.0, -8.0])})
        >>> Adam()(sums)["weight"].tolist()
        [1.0, -1.0]
    """

    second_moment: Gradient | None = None
    eps: float = 1e-8

    def __call__(self, sums: GradientSums) -> Gradient:
        """The direction."""
        mean, moment = sums.mean, self.second_moment
        if moment is None:
            return {name: g / (g.abs() + self.eps) for name, g in mean.items()}
        return {name: g / (moment[name].sqrt() + self.eps) for name, g in mean.items()}


def rms(sums: GradientSums) -> Gradient:
    """Adam's direction with the mean square over the batches, as after some steps."""
    return Adam(sums.mean_square)(sums)


DIRECTIONS: Mapping[str, Direction] = {"raw": raw, "adam": Adam(), "rms": rms}
"""By name: plain descent, Adam's first step, and Adam with the batches' own second moments."""
