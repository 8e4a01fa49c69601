"""What every family's velocity does alike: it checks its latents and spreads sigma over them."""

from __future__ import annotations

import torch
from torch import Tensor

from flowbp.adapters.backbone import Conditioning
from flowbp.adapters.policy import DtypePolicy


def check_latents(latents: Tensor, conditioning: Conditioning, policy: DtypePolicy) -> None:
    """Refuse latents that were rounded, or that are not one for each conditioning.

    Args:
        latents: (B, …).
        conditioning: Of B samples.
        policy: Whose `state` is the dtype the latents must have.

    Raises:
        ValueError: Another dtype or another number of samples.

    Example:
        >>> conditioning = Conditioning({"tokens": torch.zeros(2, 3)})
        >>> check_latents(torch.zeros(2, 4), conditioning, DtypePolicy())
    """
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
    """One timestep ``sigma * train_timesteps`` for each sample, float32 whatever the policy.

    In bfloat16 the steps between 512 and 1024 would be 4 apart.

    Args:
        latents: (B, …), which say how many and where.
        sigma: 0-d.
        train_timesteps: The scheduler's num_train_timesteps.

    Returns:
        (B,) float32 on the device of the latents.

    Example:
        >>> batch_timesteps(torch.zeros(2, 4), torch.tensor(0.5), 1000)
        tensor([500., 500.])
    """
    timestep = sigma.to(torch.float32) * train_timesteps
    if sigma.device.type == "cpu" and latents.device.type != "cpu":
        # Copying a number out of the CPU's memory would wait for the device at every call.
        return torch.full((len(latents),), float(timestep), device=latents.device)
    return timestep.to(latents.device).expand(len(latents))
