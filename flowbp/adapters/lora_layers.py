"""The modules of an adapter: products in the dtype of the activations, dropout in graphs only."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flowbp.adapters.extras import require


class AdapterLinear(nn.Linear):
    """``x Wᵀ``, computed in the dtype of x whatever that of W.

    The weights of an adapter stay in float32 on a bfloat16 model, whose activations must not
    become float32 for them: they are most of the memory of a backward pass.

    Example:
        >>> AdapterLinear(2, 3)(torch.zeros(1, 2, dtype=torch.bfloat16)).dtype
        torch.bfloat16
    """

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) to (…, out), in the dtype of `x`, or of autocast."""
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.linear(x, self.weight.to(x.dtype), bias)


class GraphDropout(nn.Module):
    """Dropout where a graph is recorded, and nowhere else.

    Sampling and evaluation record none, and a backbone is always in evaluation mode, so that the
    module's own mode says nothing.

    Args:
        share: of the elements that are dropped, in [0, 1).

    Example:
        >>> with torch.no_grad():
        ...     GraphDropout(0.5)(torch.ones(3))
        tensor([1., 1., 1.])
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        """`x` (…) with some elements zero and the others larger by as much, under a graph."""
        return F.dropout(x, self.share, training=torch.is_grad_enabled())


def adapter_layers(transformer: nn.Module) -> dict[str, Any]:
    """The layers that peft has put in place of linear ones.

    Args:
        transformer: any network.

    Returns:
        Layers by name, in the order of their names.

    Example:
        >>> adapter_layers(nn.Linear(1, 1))
        {}
    """
    kind = require("peft.tuners.lora", extra="lora").LoraLayer
    found = ((name, each) for name, each in transformer.named_modules() if isinstance(each, kind))
    return dict(sorted(found))


def replace_modules(layer: Any, adapter: str, *, dtype: torch.dtype, dropout: float) -> None:
    """Put this file's modules in place of what peft has injected into a layer.

    Args:
        layer: of `adapter_layers`.
        adapter: its name.
        dtype: of the weights, which are zero until they are filled.
        dropout: share of the adapter's inputs that are dropped in a graph.

    Example:
        See `flowbp.adapters.Lora`, which attaches an adapter.
    """
    device = layer.get_base_layer().weight.device
    for linears in (layer.lora_A, layer.lora_B):
        linears[adapter] = _zeros_like(linears[adapter], dtype, device)
    layer.lora_dropout[adapter] = GraphDropout(dropout) if dropout else nn.Identity()
    layer.cast_input_dtype_enabled = False


@torch.no_grad()
def initialise(layer: Any, adapter: str, generator: torch.Generator) -> None:
    """Draw A uniformly in ±1/√in and leave B at zero, so that the layer computes what it did.

    Args:
        layer: of `adapter_layers`.
        adapter: its name.
        generator: of the draw, which is in float32 whatever the dtype of A.

    Example:
        See `flowbp.adapters.Lora`.

    Reference: Hu et al., arXiv 2106.09685, section 4.1, with the bound of peft.
    """
    weight = layer.lora_A[adapter].weight
    drawn = torch.empty(weight.shape, device=generator.device)
    weight.copy_(nn.init.kaiming_uniform_(drawn, a=math.sqrt(5), generator=generator))


def _zeros_like(linear: nn.Linear, dtype: torch.dtype, device: torch.device) -> AdapterLinear:
    # Made on meta, because torch would draw weights from its own generator.
    sizes, biased = (linear.in_features, linear.out_features), linear.bias is not None
    module = AdapterLinear(*sizes, bias=biased, device="meta", dtype=dtype).to_empty(device=device)
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module.train(linear.training)
