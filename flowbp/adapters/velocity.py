"""Velocity fields over a transformer: evaluated under a dtype policy, guided, without gradient."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import attrs
import torch
from torch import Tensor

from flowbp.adapters.backbone import Conditioning
from flowbp.adapters.capabilities import Reference
from flowbp.adapters.dtype_policy import DtypePolicy
from flowbp.core import VelocityField, batched_guided_velocity, guided_velocity


@attrs.frozen(kw_only=True, eq=False)
class TransformerVelocity(ABC):
    """A transformer under one conditioning, as a `VelocityField`; a family calls its own.

    Args:
        transformer: Of diffusers.
        conditioning: Of B samples.
        policy: Dtypes of the transformer.
        train_timesteps: The scheduler's num_train_timesteps.
    """

    transformer: Any
    conditioning: Conditioning
    policy: DtypePolicy
    train_timesteps: int

    def __call__(self, latents: Tensor, sigma: Tensor) -> Tensor:
        """Velocity (B, C, h, w) at `latents` (B, C, h, w) and `sigma` (0-d), in `policy.state`.

        Raises:
            ValueError: Latents of another dtype than `policy.state`, or of another number of
                samples than the conditioning.
        """
        check_latents(latents, self.conditioning, self.policy)
        timestep = batch_timesteps(latents, sigma, self.train_timesteps)
        with self.policy.autocast(latents.device):
            velocity = self.predicted(latents.to(self.policy.weights), timestep)
        return velocity.to(self.policy.state)

    @abstractmethod
    def predicted(self, latents: Tensor, timestep: Tensor) -> Tensor:
        """The network's velocity at `latents` in its weights' dtype and `timestep` (B,)."""

    def embedding(self, name: str) -> Tensor:
        """A tensor of the conditioning, in the weights' dtype."""
        return self.conditioning.tensors[name].to(self.policy.weights)


def check_latents(latents: Tensor, conditioning: Conditioning, policy: DtypePolicy) -> None:
    """Refuse latents that were rounded, or that are not one for each conditioning."""
    if latents.dtype != policy.state:
        raise ValueError(
            f"`latents` must be {policy.state}, got {latents.dtype}; the policy casts "
            "inside the network, the state of the sampler is never rounded"
        )
    if len(latents) != len(conditioning):
        raise ValueError(
            f"`latents` must have {len(conditioning)} samples like the conditioning, got "
            f"{len(latents)}; slice or repeat the conditioning alike"
        )


def batch_timesteps(latents: Tensor, sigma: Tensor, train_timesteps: int) -> Tensor:
    """One timestep ``sigma * train_timesteps`` for each sample (B,), on the latents' device."""
    # In float32 whatever the policy: in bfloat16 the steps between 512 and 1024 are 4 apart.
    timestep = sigma.to(torch.float32) * train_timesteps
    if sigma.device.type == "cpu" and latents.device.type != "cpu":
        # Copying a number out of the CPU's memory would wait for the device at every call.
        return torch.full((len(latents),), float(timestep), device=latents.device)
    return timestep.to(latents.device).expand(len(latents))


def guided_field(
    velocity_of: Callable[[Conditioning], VelocityField],
    positive: Conditioning,
    negative: Conditioning | None,
    scale: float,
) -> VelocityField:
    """The field `v⁻ + scale (v⁺ - v⁻)` of some prompts, for sampling without gradient.

    Args:
        velocity_of: Such as `Backbone.velocity`.
        positive: Of B samples.
        negative: Of one sample, which stands for all; None is no guidance.
        scale: Of the guidance, not read without a negative conditioning.

    Reference: Ho and Salimans, arXiv 2207.12598.
    """
    if negative is None:
        return velocity_of(positive)
    opposite = negative.repeat(len(positive))
    both = positive.joined(opposite)
    if both is None:
        return guided_velocity(velocity_of(positive), velocity_of(opposite), scale)
    return batched_guided_velocity(velocity_of(both), scale)


def without_gradient(reference: Reference) -> Reference:
    """The same fields, evaluated under no_grad."""

    def fields(conditioning: Conditioning) -> VelocityField:
        field = reference(conditioning)

        def velocity(latents: Tensor, sigma: Tensor, /) -> Tensor:
            with torch.no_grad():
                return field(latents, sigma)

        return velocity

    return fields
