"""The FLUX.1 transformer as a velocity field."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import torch
from torch import Tensor

from flowbp.adapters.backbone import Conditioning
from flowbp.adapters.packing import from_sequence, grid_ids, patchify, to_sequence, unpatchify
from flowbp.adapters.policy import DtypePolicy
from flowbp.adapters.velocity import batch_timesteps, check_latents

if TYPE_CHECKING:
    from diffusers import FluxTransformer2DModel

_AXES = 3


@attrs.frozen(kw_only=True, eq=False)
class Flux1Velocity:
    """The transformer under one conditioning, as a `VelocityField`.

    The latents are those of the VAE; they are packed into 2x2 patches for the transformer alone,
    so that nothing else needs to know the picture's shape. The timestep reaches the transformer
    in float32; where its weights or its products are bfloat16 it rounds it itself, to 4 steps of
    1000, as in the diffusers pipeline.

    Args:
        transformer: A diffusers FluxTransformer2DModel.
        conditioning: ``tokens`` (B, L, D) and ``pooled`` (B, P).
        policy: Dtypes of the transformer.
        train_timesteps: The scheduler's num_train_timesteps.
        guidance: What the transformer's guidance embedding is given; None where it has none.

    Example:
        ``backbone.velocity(backbone.encode(["two blue squares"]))(noise, torch.tensor(1.0))``
    """

    transformer: FluxTransformer2DModel
    conditioning: Conditioning
    policy: DtypePolicy
    train_timesteps: int
    guidance: float | None

    def __call__(self, latents: Tensor, sigma: Tensor) -> Tensor:
        """Velocity (B, C, h, w) at `latents` (B, C, h, w) and `sigma` (0-d), in `policy.state`.

        Raises:
            ValueError: Latents of another dtype than `policy.state`, or of another number of
                samples than the conditioning.
        """
        check_latents(latents, self.conditioning, self.policy)
        device, weights = latents.device, self.policy.weights
        tokens, pooled = (self.conditioning.tensors[name] for name in ("tokens", "pooled"))
        patches = patchify(latents)
        rows, columns = patches.shape[-2:]
        timestep = batch_timesteps(latents, sigma, self.train_timesteps)
        with self.policy.autocast(device):
            output = self.transformer(
                hidden_states=to_sequence(patches).to(weights),
                # The transformer multiplies by 1000 whatever the scheduler counts.
                timestep=timestep / 1000,
                guidance=self._guidance(latents),
                encoder_hidden_states=tokens.to(weights),
                pooled_projections=pooled.to(weights),
                txt_ids=torch.zeros(tokens.shape[1], _AXES, device=device),
                img_ids=grid_ids(rows, columns, axes=_AXES, device=device),
                return_dict=False,
            )[0]
        return unpatchify(from_sequence(output, rows)).to(self.policy.state)

    def _guidance(self, latents: Tensor) -> Tensor | None:
        if self.guidance is None:
            return None
        return torch.full((len(latents),), self.guidance, device=latents.device)
