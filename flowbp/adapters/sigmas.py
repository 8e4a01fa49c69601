"""The noise levels that pictures are sampled on: the model's own, even, or listed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, Any, Protocol

import attrs
import torch
from torch import Tensor

from flowbp.extras import require
from flowbp.validators import real

if TYPE_CHECKING:
    from diffusers import FlowMatchEulerDiscreteScheduler

    from flowbp.adapters.backbone import Backbone


def check_scheduler(scheduler: FlowMatchEulerDiscreteScheduler) -> None:
    """Refuse a scheduler whose sampling is not a deterministic Euler descent from 1 to 0."""
    expected = require("diffusers").FlowMatchEulerDiscreteScheduler
    if not isinstance(scheduler, expected):
        raise TypeError(
            "`scheduler` must be a FlowMatchEulerDiscreteScheduler, got "
            f"{type(scheduler).__name__}; the surrogates are made of Euler steps"
        )
    for option in ("invert_sigmas", "stochastic_sampling"):
        if scheduler.config.get(option):
            raise ValueError(
                f"`scheduler` must have {option}=False, got True; "
                "the surrogates need deterministic Euler steps from sigma 1 to 0"
            )


class Shift(Protocol):
    """How far dynamic shifting moves a grid towards noise, for a picture and a number of steps."""

    def __call__(
        self, scheduler: FlowMatchEulerDiscreteScheduler, *, steps: int, image_tokens: int
    ) -> float:
        """The scheduler's mu for N `steps` over a picture of `image_tokens` patches."""
        ...


def linear_shift(
    scheduler: FlowMatchEulerDiscreteScheduler, *, steps: int, image_tokens: int
) -> float:
    """The shift of SD3.5 and FLUX.1: a line in the patches, given by the configuration."""
    config = scheduler.config
    low, high = config["base_image_seq_len"], config["max_image_seq_len"]
    slope = (config["max_shift"] - config["base_shift"]) / (high - low)
    mu: float = image_tokens * slope + (config["base_shift"] - slope * low)
    return mu


def empirical_shift(
    scheduler: FlowMatchEulerDiscreteScheduler, *, steps: int, image_tokens: int
) -> float:
    """The shift of FLUX.2, fitted to pictures and steps; not read from the configuration.

    mu is a line in the number of steps through ``m_10`` at 10 and ``m_200`` at 200, which are
    lines in the number of patches; of more than 4300 patches it is ``m_200`` at any N.
    """
    m_200 = 0.00016927 * image_tokens + 0.45666666
    if image_tokens > 4300:
        return m_200
    m_10 = 8.73809524e-05 * image_tokens + 1.89833333
    slope = (m_200 - m_10) / 190
    return slope * steps + (m_200 - 200 * slope)


def even_levels(steps: int) -> tuple[float, ...]:
    """The even levels ``1, 1 - 1/N, …, 1/N`` of N `steps`, before any shift."""
    if steps < 1:
        raise ValueError(f"`steps` must be at least 1, got {steps}")
    return tuple(1 - i / steps for i in range(steps))


def scheduler_sigmas(
    scheduler: FlowMatchEulerDiscreteScheduler,
    steps: int,
    *,
    image_tokens: int,
    shift: Shift = linear_shift,
    levels: Sequence[float] | None = None,
) -> Tensor:
    """The sigmas (N+1,) a scheduler would use, without changing it; float32 on the CPU.

    `shift` is used where it shifts dynamically; `levels` stand in place of its own, which end at
    its smallest sigma.
    """
    if steps < 1:
        raise ValueError(f"`steps` must be at least 1, got {steps}")
    mu = None
    if scheduler.config["use_dynamic_shifting"]:
        mu = shift(scheduler, steps=steps, image_tokens=image_tokens)
    if steps == 1 and scheduler.config.get("shift_terminal"):
        raise ValueError(
            "`steps` must be at least 2, got 1: the model's scheduler stretches its grid to a last "
            "sigma of its own (shift_terminal), which a single step does not have"
        )
    grid = None if levels is None else list(levels)
    working = deepcopy(scheduler)
    working.set_timesteps(steps, device="cpu", sigmas=grid, mu=mu)
    sigmas: Tensor = working.sigmas
    return sigmas


class Grid(Protocol):
    """Makes the sigmas of N steps, for training and for pictures alike."""

    def known(self, steps: int) -> Tensor | None:
        """The sigmas (N+1,), or None where only the model knows them.

        Raises:
            ValueError: It has no grid of so many steps.
        """
        ...

    def sigmas_of(self, backbone: Backbone, steps: int, *, height: int, width: int) -> Tensor:
        """The sigmas (N+1,) of pictures of `height` x `width` pixels, 1 … 0, float32 on the CPU.

        Raises:
            ValueError: It has no grid of so many steps, or the backbone cannot shift it.
        """
        ...


_SHIFT = attrs.validators.optional(real(0, above=True))


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


class _LevelsGrid(ABC):
    """Levels that are known, shifted by a number or by the model's scheduler."""

    shift: float | None

    @abstractmethod
    def levels(self, steps: int) -> tuple[float, ...]:
        """The N levels of so many steps, without the 0 of the sample."""

    def known(self, steps: int) -> Tensor | None:
        """The sigmas, where `shift` is a number."""
        levels = self.levels(steps)
        return None if self.shift is None else _shifted(levels, self.shift)

    def sigmas_of(self, backbone: Any, steps: int, *, height: int, width: int) -> Tensor:
        """The levels, shifted."""
        known = self.known(steps)
        if known is not None:
            return known
        if not hasattr(backbone, "shifted"):
            raise ValueError(
                f"`shift` is null, the model's own, and {type(backbone).__name__} has no `shifted` "
                "to apply it; give the number, 1 for none"
            )
        sigmas: Tensor = backbone.shifted(self.levels(steps), height=height, width=width)
        return sigmas


@attrs.frozen
class ModelGrid:
    """The grid that the model's own pipeline samples on by default."""

    def known(self, steps: int) -> Tensor | None:
        """None: it is the scheduler's."""
        return None

    def sigmas_of(self, backbone: Backbone, steps: int, *, height: int, width: int) -> Tensor:
        """The backbone's own."""
        return backbone.sigmas(steps, height=height, width=width)


@attrs.frozen
class EvenGrid(_LevelsGrid):
    """The even levels ``1, 1 - 1/N, …, 1/N``, shifted: ``s l / (1 + (s - 1) l)`` of a level l.

    Args:
        shift: s, which moves the levels towards noise where it is above 1; 1 does not shift. None
            shifts as the model's scheduler does, dynamic shifting included.

    Raises:
        ValueError: a shift that is no finite number above 0.

    Example:
        >>> EvenGrid(shift=3.0).known(25)[-2]
        tensor(0.1111)

    Reference: Esser et al., "Scaling Rectified Flow Transformers", arXiv 2403.03206, section 5.3.2.
    """

    shift: float | None = attrs.field(default=None, validator=_SHIFT)

    def levels(self, steps: int) -> tuple[float, ...]:
        """The even levels."""
        return even_levels(steps)


@attrs.frozen
class ListedGrid(_LevelsGrid):
    """Levels given one by one, as to a diffusers pipeline by ``sigmas=``.

    Args:
        sigmas: N of them, falling from 1; the 0 of the sample is left out.
        shift: s of ``s l / (1 + (s - 1) l)`` for a level l; 1 takes the levels as they are. None
            shifts as the model's scheduler does.

    Raises:
        ValueError: they do not fall from 1 to above 0, or the shift is not above 0.

    Example:
        >>> ListedGrid((1.0, 0.5), shift=1.0).known(2)
        tensor([1.0000, 0.5000, 0.0000])
    """

    sigmas: tuple[float, ...] = attrs.field(converter=tuple, validator=_falling)
    shift: float | None = attrs.field(default=None, validator=_SHIFT)

    def levels(self, steps: int) -> tuple[float, ...]:
        """The levels of the list; refuses another number of steps."""
        if steps != len(self.sigmas):
            raise ValueError(
                f"`grid` lists {len(self.sigmas)} sigmas and there are {steps} steps; list "
                "one for each step, or change the number of steps"
            )
        return self.sigmas


MODEL_GRID = ModelGrid()
"""The default everywhere."""
