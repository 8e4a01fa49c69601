"""A model's field under classifier-free guidance, as cheaply as its conditioning allows."""

from __future__ import annotations

from collections.abc import Callable

from flowbp.adapters.backbone import Conditioning
from flowbp.core import VelocityField, guided_velocity, guided_velocity_in_one_call


def guided_field(
    velocity_of: Callable[[Conditioning], VelocityField],
    positive: Conditioning,
    negative: Conditioning | None,
    scale: float,
) -> VelocityField:
    """The field `v⁻ + scale (v⁺ - v⁻)` of some prompts, for sampling without gradient.

    Both branches are evaluated in one call of twice the samples, unless their conditioning has
    different shapes.

    Args:
        velocity_of: Such as `Backbone.velocity`.
        positive: Of B samples.
        negative: Of one sample, which stands for all; None is no guidance.
        scale: Of the guidance, not read without a negative conditioning.

    Returns:
        A field of B samples.

    Example:
        >>> import torch
        >>> def velocity_of(conditioning):
        ...     return lambda latents, sigma: conditioning.tensors["factor"] * latents
        >>> positive = Conditioning({"factor": torch.tensor([[2.0], [3.0]])})
        >>> negative = Conditioning({"factor": torch.tensor([[1.0]])})
        >>> guided_field(velocity_of, positive, negative, 3.0)(torch.ones(2, 1), torch.tensor(1.0))
        tensor([[4.],
                [7.]])

    Reference: Ho and Salimans, arXiv 2207.12598.
    """
    if negative is None:
        return velocity_of(positive)
    opposite = negative.repeat(len(positive))
    both = positive.joined(opposite)
    if both is None:
        return guided_velocity(velocity_of(positive), velocity_of(opposite), scale)
    return guided_velocity_in_one_call(velocity_of(both), scale)
