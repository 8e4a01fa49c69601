"""The SD3 transformer as a velocity field."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
from torch import Tensor

from flowbp.adapters.backbone import Conditioning
from flowbp.adapters.policy import DtypePolicy
from flowbp.adapters.velocity import batch_timesteps, check_latents

if TYPE_CHECKING:
    from diffusers import SD3Transformer2DModel


@attrs.frozen(kw_only=True, eq=False)
class SD3Velocity:
    """The transformer under one conditioning, as a `VelocityField`.

    The timestep is ``sigma * train_timesteps`` in float32 whatever the policy.

    Args:
        transformer: A diffusers SD3Transformer2DModel.
        conditioning: ``tokens`` (B, L, D) and ``pooled`` (B, P).
        policy: Dtypes of the transformer.
        train_timesteps: The scheduler's num_train_timesteps.

    Example:
        ``backbone.velocity(backbone.encode(["two blue squares"]))(noise, torch.tensor(1.0))``
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
        check_latents(latents, self.conditioning, self.policy)
        tensors = self.conditioning.tensors
        with self.policy.autocast(latents.device):
            output = self.transformer(
                hidden_states=latents.to(self.policy.weights),
                timestep=batch_timesteps(latents, sigma, self.train_timesteps),
                encoder_hidden_states=tensors["tokens"].to(self.policy.weights),
                pooled_projections=tensors["pooled"].to(self.policy.weights),
                return_dict=False,
            )[0]
        velocity: Tensor = output.to(self.policy.state)
        return velocity
