"""Backbones with an adapter that changes something, for the tests of LoRA."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from flowbp.adapters import Lora
from flowbp.adapters.quantization import FORMATS, QuantizedLinear, quantization_of
from flowbp.core import rollout

from .families import FAMILIES, Family

PROMPTS = ["a red box", "two dots"]
SIGMA = torch.tensor(0.3)
TUNED = {
    name: FAMILIES[name]
    for name in ("sd3", "flux1 dev", "flux2 klein-base", "z_image", "qwen_image")
}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def attached(family: Family, lora: Lora | None = None, *, seed: int = 0, **options: Any) -> Any:
    """A fresh backbone of the family with an untrained adapter."""
    backbone = family.backbone(deepcopy(family.pipeline()), **options)
    return (lora or Lora(rank=3))(backbone, generator=seeded(seed))


def trained(family: Family, lora: Lora | None = None, **options: Any) -> Any:
    """A fresh backbone of the family with an adapter far from zero."""
    backbone, generator = attached(family, lora, **options), seeded(7)
    with torch.no_grad():
        for parameter in backbone.trainable().values():
            drawn = torch.randn(parameter.shape, generator=generator)
            parameter.add_(drawn.to(parameter), alpha=0.1)
    return backbone


def widened(layer: QuantizedLinear, dtype: torch.dtype) -> torch.Tensor:
    size = [layer.out_features, layer.in_features]
    scales = layer.scales.view(torch.float32)
    return FORMATS[layer.form].widened(layer.weight, scales, size, dtype)


def with_plain_layers(network: nn.Module, dtype: torch.dtype) -> None:
    """Put plain linear layers of the widened weights in place of those of few bits."""
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, QuantizedLinear):
                plain = nn.Linear(child.in_features, child.out_features, bias=False, dtype=dtype)
                plain.weight = nn.Parameter(widened(child, dtype), requires_grad=False)
                plain.bias = child.bias
                setattr(parent, name, plain)
    assert quantization_of(network) is None


def noise_of(backbone: Any, height: int = 16, width: int = 16) -> Tensor:
    return backbone.noise(len(PROMPTS), height=height, width=width, generator=seeded(3))


def velocity_of(backbone: Any) -> Tensor:
    """One velocity, under whatever grad mode there is."""
    return backbone.velocity(backbone.encode(PROMPTS))(noise_of(backbone), SIGMA)


def gradients_of(backbone: Any) -> dict[str, Tensor]:
    """Of the mean square of one velocity."""
    parameters = backbone.trainable()
    gradients = torch.autograd.grad(
        velocity_of(backbone).square().mean(),
        list(parameters.values()),
        allow_unused=True,
        materialize_grads=True,
    )
    return dict(zip(parameters, gradients, strict=True))


def images_of(backbone: Any, *, steps: int) -> Tensor:
    sigmas = backbone.sigmas(steps, height=16, width=16)
    field = backbone.velocity(backbone.encode(PROMPTS))
    return backbone.decode(rollout(field, noise_of(backbone), sigmas).sample)
