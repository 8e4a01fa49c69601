"""The layers of an adapter in a network: found, initialised, filled, disabled."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flowbp.extras import require


class AdapterLinear(nn.Linear):
    """``x Wᵀ``, computed in the dtype of x whatever that of W.

    The weights of an adapter stay in float32 on a bfloat16 model, whose activations must not
    become float32 for them: they are most of the memory of a backward pass.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) to (…, out), in the dtype of `x`, or of autocast."""
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.linear(x, self.weight.to(x.dtype), bias)


class GraphDropout(nn.Module):
    """Dropout of a `share` of the elements where a graph is recorded, and nowhere else."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        """`x` (…) with some elements zero and the others larger by as much, under a graph."""
        # Not by the module's own mode: a backbone is always in evaluation mode.
        return F.dropout(x, self.share, training=torch.is_grad_enabled())


def adapter_layers(transformer: nn.Module) -> dict[str, Any]:
    """The layers that peft has put in place of linear ones, sorted by name."""
    kind = require("peft.tuners.lora", extra="lora").LoraLayer
    found = ((name, each) for name, each in transformer.named_modules() if isinstance(each, kind))
    return dict(sorted(found))


def replace_modules(layer: Any, adapter: str, *, dtype: torch.dtype, dropout: float) -> None:
    """Put this file's modules in place of what peft has injected into a layer."""
    device = layer.get_base_layer().weight.device
    for linears in (layer.lora_A, layer.lora_B):
        linears[adapter] = _zeros_like(linears[adapter], dtype, device)
    layer.lora_dropout[adapter] = GraphDropout(dropout) if dropout else nn.Identity()
    layer.cast_input_dtype_enabled = False


@torch.no_grad()
def initialise(layer: Any, adapter: str, generator: torch.Generator) -> None:
    """Draw A uniformly in ±1/√in, in float32, and leave B at zero.

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


def adapter_of(transformer: Any) -> str | None:
    """The name of a transformer's adapter, None where it has none; no file holds more than one."""
    names: list[str] = list(getattr(transformer, "peft_config", None) or ())
    if not names:
        return None
    if len(names) > 1:
        raise ValueError(
            f"`transformer` must have one adapter at most, got {', '.join(names)}; merge the others"
        )
    besides = [
        name
        for name, parameter in transformer.named_parameters()
        if parameter.requires_grad and ".lora_" not in name
    ]
    if besides:
        raise ValueError(
            f"`transformer` has an adapter, but {len(besides)} other parameters require a gradient "
            f"too, the first being {besides[0]!r}; freeze them, or merge the adapter"
        )
    return names[0]


@torch.no_grad()
def fill(layers: Mapping[str, Any], adapter: str, tensors: Mapping[str, Tensor]) -> None:
    """Copy an adapter's tensors into its layers, unrounded by the model's own dtype."""
    for name, tensor in tensors.items():
        layer, _, rest = name.rpartition(".lora_")
        side, kind = rest.split(".")
        getattr(getattr(layers[layer], f"lora_{side}")[adapter], kind).copy_(tensor)


def configuration_of(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The configuration of peft for an adapter whose scale is 1, its layers named in full."""
    # The shortest ends that peft finds for one model may mean more in another.
    ranks = {
        name.split(".lora_")[0]: int(tensor.shape[0])
        for name, tensor in sorted(tensors.items())
        if name.endswith(".lora_A.weight")
    }
    rank = Counter(ranks.values()).most_common(1)[0][0]
    # Anchored, as ends of names may be those of several layers.
    others = {f"^{layer}": each for layer, each in ranks.items() if each != rank}
    names: list[str] | str = sorted(ranks)
    if any("." not in name for name in names):
        # May be the end of another's: peft takes a list for ends, a text for a pattern of all.
        names = "|".join(map(re.escape, names))
    return {
        "r": rank,
        "lora_alpha": rank,
        "rank_pattern": others,
        "alpha_pattern": others,
        "use_rslora": False,
        "lora_bias": any(name.endswith(".bias") for name in tensors),
        "target_modules": names,
    }


def multiplied(tensor: Tensor, scale: float) -> Tensor:
    """`tensor` times `scale`, rounded once, in float32 or what is wider."""
    if scale == 1:
        return tensor
    wide = torch.float64 if tensor.dtype == torch.float64 else torch.float32
    return (tensor.double() * scale).to(wide)


def only_adapters_train(network: nn.Module) -> bool:
    """Whether a network has peft adapters and trains nothing else, so that its base stays."""
    if not _tuner_layers(network):
        return False
    with adapters_disabled(network):
        return not any(parameter.requires_grad for parameter in network.parameters())


@contextmanager
def adapters_disabled(network: nn.Module) -> Iterator[None]:
    """Context in which a network computes as if it had no peft adapters, active again after it."""
    layers = [layer for layer in _tuner_layers(network) if not layer.disable_adapters]
    # peft freezes what it disables, and makes all of what it enables trainable.
    flags = [(p, p.requires_grad) for layer in layers for p in layer.parameters()]
    try:
        for layer in layers:
            layer.enable_adapters(False)
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


def _tuner_layers(network: nn.Module) -> list[Any]:
    if not getattr(network, "peft_config", None):
        return []
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [module for module in network.modules() if isinstance(module, BaseTunerLayer)]
