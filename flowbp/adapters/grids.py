"""The noise levels that pictures are sampled on, as a value: the model's own, even, or listed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import attrs
import torch
from torch import Tensor

from flowbp.adapters.sigmas import even_levels

if TYPE_CHECKING:
    from flowbp.adapters.backbone import Backbone


class Grid(Protocol):
    """Makes the sigmas of N steps, for training and for pictures alike.

    Example:
        >>> EvenGrid(shift=3.0).known(2)
        tensor([1.0000, 0.7500, 0.0000])
    """

    def known(self, steps: int) -> Tensor | None:
        """The sigmas (N+1,), or None where only the model knows them.

        Raises:
            ValueError: it has no grid of so many steps.
        """
        ...

    def sigmas_of(self, backbone: Backbone, steps: int, *, height: int, width: int) -> Tensor:
        """The sigmas (N+1,) of pictures of `height` x `width` pixels, 1 … 0, float32 on the CPU.

        Raises:
            ValueError: it has no grid of so many steps, or the backbone cannot shift it.
        """
        ...


class WithShift(Protocol):
    """A backbone that shifts a grid by its own scheduler; without it a grid names its `shift`."""

    def shifted(self, levels: Sequence[float], *, height: int, width: int) -> Tensor:
        """The sigmas (N+1,) that N falling levels become, as its pipeline given ``sigmas=``."""
        ...


def _positive(_: Any, attribute: attrs.Attribute[Any], value: float | None) -> None:
    if value is not None and not (math.isfinite(value) and value > 0):
        raise ValueError(
            f"`{attribute.name}` must be a finite number above 0, got {value}; 1 does not shift"
        )


def _falling(_: Any, attribute: attrs.Attribute[Any], value: tuple[float, ...]) -> None:
    # As they will be used: two levels may be one in float32.
    levels = torch.tensor(value, dtype=torch.float32)
    legal = len(value) > 0 and bool(levels[0] == 1 and levels[-1] > 0 and levels.diff().lt(0).all())
    if not legal:
        raise ValueError(
            f"`{attribute.name}` must fall from 1 to a last number above 0, one for each step, "
            f"without the 0 of the sample, got {list(value)}"
        )


def _shifted(levels: Sequence[float], shift: float) -> Tensor:
    each = torch.tensor(levels, dtype=torch.float32)
    sigmas = torch.cat([shift * each / (1 + (shift - 1) * each), torch.zeros(1)])
    if not sigmas.diff().lt(0).all():
        raise ValueError(
            f"`shift` is {shift:g}, under which several of the {len(levels)} levels are the same "
            "number in float32; take one nearer to 1"
        )
    return sigmas


def _by(
    backbone: Any, levels: Sequence[float], shift: float | None, height: int, width: int
) -> Tensor:
    if shift is not None:
        return _shifted(levels, shift)
    shifted = getattr(backbone, "shifted", None)
    if shifted is None:
        raise ValueError(
            f"`shift` is null, the model's own, and {type(backbone).__name__} has no `shifted` to "
            "apply it; give the number, 1 for none"
        )
    sigmas: Tensor = shifted(levels, height=height, width=width)
    return sigmas


@attrs.frozen
class ModelGrid:
    """The grid that the model's own pipeline samples on when nothing is said.

    Example:
        >>> ModelGrid().known(25) is None
        True
    """

    def known(self, steps: int) -> Tensor | None:
        """None: it is the scheduler's."""
        return None

    def sigmas_of(self, backbone: Backbone, steps: int, *, height: int, width: int) -> Tensor:
        """The backbone's own."""
        return backbone.sigmas(steps, height=height, width=width)


@attrs.frozen
class EvenGrid:
    """The even levels ``1, 1 - 1/N, …, 1/N``, shifted: ``s l / (1 + (s - 1) l)`` of a level l.

    Args:
        shift: s; 1 does not shift. None shifts as the model's scheduler does, dynamic shifting
            included.

    Raises:
        ValueError: a shift that is no finite number above 0.

    Example:
        >>> EvenGrid(shift=3.0).known(25)[-2]
        tensor(0.1111)

    Reference: Esser et al., "Scaling Rectified Flow Transformers", arXiv 2403.03206, section 5.3.2.
    """

    shift: float | None = attrs.field(default=None, validator=_positive)

    def known(self, steps: int) -> Tensor | None:
        """The sigmas, where `shift` is a number."""
        return None if self.shift is None else _shifted(even_levels(steps), self.shift)

    def sigmas_of(self, backbone: Backbone, steps: int, *, height: int, width: int) -> Tensor:
        """The even levels, shifted."""
        return _by(backbone, even_levels(steps), self.shift, height, width)


@attrs.frozen
class ListedGrid:
    """Levels given one by one, as to a diffusers pipeline by ``sigmas=``.

    Args:
        sigmas: N of them, falling from 1; the 0 of the sample is left out.
        shift: as for `EvenGrid`; 1 takes them as they are.

    Raises:
        ValueError: they do not fall from 1 to above 0, or the shift is not above 0.

    Example:
        >>> ListedGrid((1.0, 0.5), shift=1.0).known(2)
        tensor([1.0000, 0.5000, 0.0000])
    """

    sigmas: tuple[float, ...] = attrs.field(converter=tuple, validator=_falling)
    shift: float | None = attrs.field(default=None, validator=_positive)

    def known(self, steps: int) -> Tensor | None:
        """The sigmas, where `shift` is a number.

        Raises:
            ValueError: there are not as many as steps.
        """
        if steps != len(self.sigmas):
            raise ValueError(
                f"`grid` lists {len(self.sigmas)} sigmas and there are {steps} steps; list "
                "one for each step, or change the number of steps"
            )
        return None if self.shift is None else _shifted(self.sigmas, self.shift)

    def sigmas_of(self, backbone: Backbone, steps: int, *, height: int, width: int) -> Tensor:
        """The levels, shifted.

        Raises:
            ValueError: there are not as many as steps.
        """
        self.known(steps)
        return _by(backbone, self.sigmas, self.shift, height, width)


MODEL_GRID = ModelGrid()
"""The default everywhere."""
