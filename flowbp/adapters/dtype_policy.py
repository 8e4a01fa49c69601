"""Which number format weights, computation and latents are kept in, as a value."""

from __future__ import annotations

import attrs
import torch
from torch import nn

_LEGAL = (
    (torch.float32, torch.float32),
    (torch.float32, torch.bfloat16),
    (torch.bfloat16, torch.bfloat16),
    (torch.float64, torch.float64),
)


@attrs.frozen
class DtypePolicy:
    """Dtype of a network's weights and of its computation.

    ========  ========  =====================================================================
    weights   compute   meaning
    ========  ========  =====================================================================
    float32   float32   full precision
    float32   bfloat16  autocast: full-precision weights, matrix products in bfloat16
    bfloat16  bfloat16  plain bfloat16, half the memory; small updates of the weights are lost
    float64   float64   for checking gradients
    ========  ========  =====================================================================

    Latents, velocities, images and timesteps do not follow it: they stay in `state`.

    Args:
        weights: Dtype the weights are stored in.
        compute: Dtype of the matrix products.

    Raises:
        ValueError: The pair is not one of the table. float16 is refused because it needs loss
            scaling, which the backward sweep does not do.

    Example:
        >>> DtypePolicy(torch.float32, torch.bfloat16).state
        torch.float32
    """

    weights: torch.dtype = torch.float32
    compute: torch.dtype = torch.float32

    def __attrs_post_init__(self) -> None:
        if (self.weights, self.compute) not in _LEGAL:
            pairs = ", ".join(f"{_name(w)}/{_name(c)}" for w, c in _LEGAL)
            raise ValueError(
                f"`weights`/`compute` must be one of {pairs}, got "
                f"{_name(self.weights)}/{_name(self.compute)}; in place of float16 use bfloat16"
            )

    @property
    def state(self) -> torch.dtype:
        """Dtype of latents, velocities and images: float32, or float64 under float64 weights."""
        return torch.float64 if self.weights == torch.float64 else torch.float32

    @property
    def frozen(self) -> DtypePolicy:
        """The same computation for a network that is not trained: weights kept in `compute`."""
        return DtypePolicy(self.compute, self.compute)

    def autocast(self, device: torch.device) -> torch.autocast:
        """Context in which the network runs; an autocast set outside does not leak into it."""
        if self.weights == self.compute:
            return torch.autocast(device.type, enabled=False)
        return torch.autocast(device.type, dtype=self.compute)

    def place(self, module: nn.Module, device: torch.device) -> None:
        """Move a network to `device` and cast its weights, in place."""
        # The plain method: diffusers' own `to` warns of float32 modules even where it has none.
        nn.Module.to(module, device=device, dtype=self.weights)


FLOAT32 = DtypePolicy()
"""Full precision, the default everywhere."""

CPU = torch.device("cpu")
"""The default device everywhere."""


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
