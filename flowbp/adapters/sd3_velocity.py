"""The SD3 transformer as a velocity field."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import torch
from torch import Tensor

from flowbp.adapters.backbone import Conditioning
from flowbp.adapters.policy import DtypePolicy

if TYPE_CHECKING:
    from diffusers import SD3Transformer2DModel


@attrs.frozen(kw_only=True, eq=False)
class SD3Velocity:
    """The transformer under one conditioning, as a `VelocityField`.

    The timestep is ``sigma * train_timesteps`` in float32 whatever the policy: in bfloat16 the
    steps between 512 and 1024 would be 4 apart.

    Args:
        transformer: A diffusers SD3Transformer2DModel.
        conditioning: ``tokens`` (B, L, D) and ``pooled`` (B, P).
        policy: Dtypes of the transformer.
        train_timesteps: The scheduler's num_train_timesteps.
    """

    transformer: SD3Transformer2DModel
    conditioning: Conditioning
    policy: DtypePolicy
    train_timesteps: int

    def __call__(self, latents: Tensor, sigma: Tensor) -> Tensor:
        """Velocity (B, C, h, w) at `latents` (B, C, h, w) and `sigma` (0-d), in `policy.state`.

        Raises:
            ValueError: Latents of another dtype than `policy.state`, or of another number of
                samples than the conditioning.
        """
        if latents.dtype != self.policy.state:
            raise ValueError(
                f"`latents` must be {self.policy.state}, got {latents.dtype}; the policy casts "
                "inside the network, the state of the sampler is never rounded"
            )
        if len(latents) != len(self.conditioning):
            raise ValueError(
                f"`latents` must have {len(self.conditioning)} samples like the conditioning, got "
                f"{len(latents)}; slice or repeat the conditioning alike"
            )
        tensors = self.conditioning.tensors
        with self.policy.autocast(latents.device):
            output = self.transformer(
                hidden_states=latents.to(self.policy.weights),
                timestep=self._timestep(latents, sigma),
                encoder_hidden_states=tensors["tokens"].to(self.policy.weights),
                pooled_projections=tensors["pooled"].to(self.policy.weights),
                return_dict=False,
            )[0]
        velocity: Tensor = output.to(self.policy.state)
        return velocity

    def _timestep(self, latents: Tensor, sigma: Tensor) -> Tensor:
        timestep = sigma.to(torch.float32) * self.train_timesteps
        if sigma.device.type == "cpu" and latents.device.type != "cpu":
            # Copying a number out of the CPU's memory would wait for the device at every call.
            return torch.full((len(latents),), float(timestep), device=latents.device)
        return timestep.to(latents.device).expand(len(latents))
