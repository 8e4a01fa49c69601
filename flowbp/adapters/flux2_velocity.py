"""The FLUX.2 transformer as a velocity field."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import torch
from torch import Tensor

from flowbp.adapters.backbone import Conditioning
from flowbp.adapters.packing import from_sequence, grid_ids, to_sequence
from flowbp.adapters.policy import DtypePolicy
from flowbp.adapters.velocity import batch_timesteps, check_latents

if TYPE_CHECKING:
    from diffusers import Flux2Transformer2DModel

_AXES = 4


@attrs.frozen(kw_only=True, eq=False)
class Flux2Velocity:
    """The transformer under one conditioning, as a `VelocityField`.

    Positions have four axes: time (0 without reference pictures), row, column, and the number of
    the text token. The timestep reaches the transformer in float32; where its weights are
    bfloat16 it rounds it itself, to 4 steps of 1000, as in the diffusers pipeline.

    Args:
        transformer: A diffusers Flux2Transformer2DModel.
        conditioning: ``tokens`` (B, L, D).
        policy: Dtypes of the transformer.
        train_timesteps: The scheduler's num_train_timesteps.

    Example:
        ``backbone.velocity(backbone.encode(["two blue squares"]))(noise, torch.tensor(1.0))``
    """

    transformer: Flux2Transformer2DModel
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
        device, weights = latents.device, self.policy.weights
        tokens = self.conditioning.tensors["tokens"]
        rows, columns = latents.shape[-2:]
        timestep = batch_timesteps(latents, sigma, self.train_timesteps)
        with self.policy.autocast(device):
            output = self.transformer(
                hidden_states=to_sequence(latents).to(weights),
                # The transformer multiplies by 1000 whatever the scheduler counts.
                timestep=timestep / 1000,
                encoder_hidden_states=tokens.to(weights),
                txt_ids=_text_ids(tokens.shape[1], device),
                img_ids=grid_ids(rows, columns, axes=_AXES, device=device),
                return_dict=False,
            )[0]
        return from_sequence(output, rows).to(self.policy.state)


def _text_ids(length: int, device: torch.device) -> Tensor:
    ids = torch.zeros(length, _AXES, device=device)
    ids[:, -1] = torch.arange(length, device=device)
    return ids
