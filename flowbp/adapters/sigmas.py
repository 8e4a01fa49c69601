"""The noise levels a diffusers scheduler samples on."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING

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


def scheduler_sigmas(
    scheduler: FlowMatchEulerDiscreteScheduler, steps: int, *, image_tokens: int
) -> Tensor:
    """The sigmas a scheduler would use, without changing it.

    With dynamic shifting, the shift is the line through (base_image_seq_len, base_shift) and
    (max_image_seq_len, max_shift) at `image_tokens`, as the diffusers pipelines compute it.

    Args:
        scheduler: Configuration of the shift and its kind.
        steps: N, at least 1.
        image_tokens: Patches of the picture, which dynamic shifting depends on.

    Returns:
        (N+1,) float32 on the CPU, ending in 0; equal to ``scheduler.sigmas`` after
        ``set_timesteps(steps)``.

    Raises:
        ValueError: `steps` is less than 1.

    Example:
        >>> from diffusers import FlowMatchEulerDiscreteScheduler
        >>> scheduler_sigmas(FlowMatchEulerDiscreteScheduler(), 2, image_tokens=256)
        tensor([1.0000, 0.0010, 0.0000])
    """
    if steps < 1:
        raise ValueError(f"`steps` must be at least 1, got {steps}")
    config = scheduler.config
    mu = None
    if config["use_dynamic_shifting"]:
        low, high = config["base_image_seq_len"], config["max_image_seq_len"]
        slope = (config["max_shift"] - config["base_shift"]) / (high - low)
        mu = image_tokens * slope + (config["base_shift"] - slope * low)
    working = deepcopy(scheduler)
    working.set_timesteps(steps, device="cpu", mu=mu)
    sigmas: Tensor = working.sigmas
    return sigmas
