"""The noise levels a diffusers scheduler samples on."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

from flowbp.adapters.extras import require

if TYPE_CHECKING:
    from diffusers import FlowMatchEulerDiscreteScheduler


def check_scheduler(scheduler: FlowMatchEulerDiscreteScheduler) -> None:
    """Refuse a scheduler whose sampling is not a deterministic Euler descent from 1 to 0.

    Args:
        scheduler: The scheduler to look at.

    Raises:
        TypeError: It is not a FlowMatchEulerDiscreteScheduler.
        ValueError: It samples stochastically or runs from 0 to 1.

    Example:
        >>> from diffusers import FlowMatchEulerDiscreteScheduler
        >>> check_scheduler(FlowMatchEulerDiscreteScheduler(shift=3.0))
    """
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
    """The line through (base_image_seq_len, base_shift) and (max_image_seq_len, max_shift).

    Args:
        scheduler: Whose configuration holds the two points.
        steps: N, of which this shift is independent.
        image_tokens: Patches of the picture, where the line is read.

    Returns:
        mu, as the pipelines of Stable Diffusion 3.5 and FLUX.1 compute it.

    Example:
        >>> from diffusers import FlowMatchEulerDiscreteScheduler
        >>> linear_shift(FlowMatchEulerDiscreteScheduler(), steps=25, image_tokens=4096)
        1.15
    """
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

    Args:
        scheduler: Not looked at.
        steps: N.
        image_tokens: Patches of the picture.

    Returns:
        mu, as Flux2KleinPipeline computes it.

    Example:
        >>> from diffusers import FlowMatchEulerDiscreteScheduler
        >>> scheduler = FlowMatchEulerDiscreteScheduler()
        >>> round(empirical_shift(scheduler, steps=25, image_tokens=1024), 4)
        1.8806
    """
    m_200 = 0.00016927 * image_tokens + 0.45666666
    if image_tokens > 4300:
        return m_200
    m_10 = 8.73809524e-05 * image_tokens + 1.89833333
    slope = (m_200 - m_10) / 190
    return slope * steps + (m_200 - 200 * slope)


def even_levels(steps: int) -> tuple[float, ...]:
    """The even levels ``1, 1 - 1/N, …, 1/N`` of N `steps`, before any shift.

    Args:
        steps: N, at least 1.

    Returns:
        N of them.

    Raises:
        ValueError: `steps` is less than 1.

    Example:
        >>> even_levels(4)
        (1.0, 0.75, 0.5, 0.25)
    """
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
    """The sigmas a scheduler would use, without changing it.

    Args:
        scheduler: Configuration of the shift and its kind.
        steps: N, at least 1.
        image_tokens: Patches of the picture, which dynamic shifting depends on.
        shift: Its mu, used where the scheduler has dynamic shifting.
        levels: N of them to shift, as FLUX's pipelines give the scheduler the even ones, in place
            of the scheduler's own, which end at its smallest sigma.

    Returns:
        (N+1,) float32 on the CPU, ending in 0; equal to ``scheduler.sigmas`` after the family's
        pipeline has called ``set_timesteps``.

    Raises:
        ValueError: `steps` is less than 1.

    Example:
        >>> from diffusers import FlowMatchEulerDiscreteScheduler
        >>> scheduler = FlowMatchEulerDiscreteScheduler()
        >>> scheduler_sigmas(scheduler, 2, image_tokens=256)
        tensor([1.0000, 0.0010, 0.0000])
        >>> scheduler_sigmas(scheduler, 2, image_tokens=256, levels=[1, 0.5])
        tensor([1.0000, 0.5000, 0.0000])
    """
    if steps < 1:
        raise ValueError(f"`steps` must be at least 1, got {steps}")
    mu = None
    if scheduler.config["use_dynamic_shifting"]:
        mu = shift(scheduler, steps=steps, image_tokens=image_tokens)
    grid = None if levels is None else list(levels)
    working = deepcopy(scheduler)
    working.set_timesteps(steps, device="cpu", sigmas=grid, mu=mu)
    sigmas: Tensor = working.sigmas
    return sigmas
