"""The attention of diffusers' transformers, set to a kernel or to the fastest right one."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from flowbp.adapters.attention_kernels import (
    ATTENTIONS,
    AUTO,
    CHOICES,
    HALF,
    KERNELS,
    NATIVE,
    attend,
)

_NAME = "_flowbp_attention"
"""What a network's attention was set to, on the network itself, so that its copies have it too."""

_OURS = "flowbp_"
"""How our names in the registry of diffusers begin."""


class JointAttention:
    """A diffusers attention processor of Stable Diffusion 3: its own one, but for the kernel."""

    def __init__(self, attention: str) -> None:
        self.attention = attention

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Attend among (B, N, C) and, if there is any, text (B, L, C); no mask is read."""
        joined = _projected(attn, hidden_states, "to_{}", "norm_{}")
        if encoder_hidden_states is not None:
            text = _projected(attn, encoder_hidden_states, "add_{}_proj", "norm_added_{}")
            joined = [torch.cat(pair, dim=2) for pair in zip(joined, text, strict=True)]
        found = attend(self.attention, *joined)
        found = found.transpose(1, 2).flatten(2).to(joined[0].dtype)
        positions = hidden_states.shape[1]
        pictures = attn.to_out[1](attn.to_out[0](found[:, :positions]))
        if encoder_hidden_states is None:
            return pictures  # type: ignore[no-any-return]
        texts = found[:, positions:]
        return pictures, texts if attn.context_pre_only else attn.to_add_out(texts)


def _projected(attn: Any, states: Tensor, projection: str, norm: str) -> list[Tensor]:
    """Queries, keys and values (B, H, N, D), normalized where the model does."""
    found = []
    for name in "qkv":
        heads = getattr(attn, projection.format(name))(states)
        heads = heads.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
        normalize = getattr(attn, norm.format(name), None)
        found.append(heads if normalize is None else normalize(heads))
    return found


@cache
def _registered(attention: str) -> Any:
    """The attention under a name in the registry of diffusers, which processors look up there."""
    from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry

    backends: Any = _AttentionBackendRegistry
    native = backends._backends[AttentionBackendName.NATIVE]

    def attended(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
        _parallel_config: Any = None,
    ) -> Tensor:
        """Positions before heads, (B, N, H, D)."""
        if (
            dropout_p
            or is_causal
            or scale is not None
            or enable_gqa
            or _parallel_config is not None
        ):
            found: Tensor = native(
                query,
                key,
                value,
                attn_mask,
                dropout_p,
                is_causal,
                scale,
                enable_gqa,
                _parallel_config=_parallel_config,
            )
            return found
        if attn_mask is not None and attn_mask.ndim == 2:
            attn_mask = attn_mask[:, None, None]
        heads = [each.transpose(1, 2) for each in (query, key, value)]
        return attend(attention, heads[0], heads[1], heads[2], attn_mask).transpose(1, 2)

    # The names are an enumeration, and a processor takes no other.
    names: Any = AttentionBackendName
    member = str.__new__(names, f"{_OURS}{attention}")
    member._name_, member._value_ = f"FLOWBP_{attention.upper()}", f"{_OURS}{attention}"
    names._value2member_map_[member._value_] = member
    # Copies look a member up by its name until Python 3.11.4.
    names._member_map_[member._name_] = member
    backends.register(member)(attended)
    return member


def attend_with(
    transformer: nn.Module, attention: str, device: torch.device, dtype: torch.dtype
) -> None:
    """Have a transformer of diffusers attend by a kernel, or by the fastest right one.

    Args:
        transformer: Its processors that are not diffusers' own stay, and under `auto` the backends
            that its `set_attention_backend` has set.
        attention: `auto`, `cudnn`, `flash`, `efficient`, or `native` for what diffusers does.
        device: Where it is; away from CUDA `auto` is `native`.
        dtype: What it computes in; `auto` is `native` but in half precision.

    Raises:
        ValueError: No such attention, or not there.
    """
    _check(attention, device, dtype)
    plain = attention == NATIVE or device.type != "cuda" or dtype not in HALF
    name, keep = NATIVE if plain else attention, attention == AUTO
    count = sum(_set(part, name, keep=keep) for part in transformer.modules())
    if attention in KERNELS and count == 0:
        raise ValueError(
            f"`attention` is {attention!r}, and {type(transformer).__name__} has no attention of "
            "diffusers to set; write auto"
        )
    setattr(transformer, _NAME, attention)


def attend_as_set(transformer: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Have a transformer attend by what it, or the one it is a copy of, was set to, or `auto`."""
    attend_with(transformer, getattr(transformer, _NAME, AUTO), device, dtype)


def _check(attention: str, device: torch.device, dtype: torch.dtype) -> None:
    if attention not in ATTENTIONS:
        raise ValueError(f"`attention` must be {' or '.join(ATTENTIONS)}, got {attention!r}")
    if attention not in KERNELS:
        return
    if device.type != "cuda":
        raise ValueError(
            f"`attention` is {attention!r}, a kernel of CUDA, on the device {device}; write auto"
        )
    if dtype not in HALF:
        raise ValueError(
            f"`attention` is {attention!r}, and the model computes in {dtype}; write auto, or have "
            "it compute in bfloat16"
        )


def _set(part: nn.Module, attention: str, *, keep: bool = False) -> bool:
    """Set the attention of a module, if it is one; `keep` a backend that others have set."""
    processor: Any = getattr(part, "processor", None)
    if processor is None:
        return False
    from diffusers.models.attention_processor import JointAttnProcessor2_0

    if type(processor) in (JointAttnProcessor2_0, JointAttention):
        plain = attention == NATIVE
        set_processor: Callable[[Any], None] = part.set_processor  # type: ignore[assignment]
        set_processor(JointAttnProcessor2_0() if plain else JointAttention(attention))
        return True
    # One by one: the model's own method also changes the default of every other model.
    if hasattr(processor, "_attention_backend"):
        theirs = not (processor._attention_backend or _OURS).startswith(_OURS)
        if not (keep and theirs):
            processor._attention_backend = None if attention == NATIVE else _registered(attention)
        return True
    return False


def set_attention(
    backbone: Any,
    attention: str,
    *,
    agree: Callable[[str, str], str],
    say: Callable[[str], None],
    key: str = "run.attention",
) -> None:
    """Have a backbone's network attend by a kernel, before it is compiled, see `attend_with`.

    What all choices take from then on stays so until `CHOICES.restored()` ends.

    Args:
        backbone: A `Backbone`; one without a network of diffusers keeps its own under `auto`.
        attention: One of `ATTENTIONS`.
        agree: What all processes take, of a description of a shape and this one's choice for it.
        say: Takes a line about each choice of this process.
        key: Of the configuration, which messages name.

    Raises:
        ValueError: The attention is not there.
    """
    CHOICES.agree, CHOICES.say, CHOICES.key = agree, say, key
    policy = getattr(backbone, "policy", None)
    dtype = torch.bfloat16 if policy is None else policy.compute
    attend_with(backbone.module, attention, backbone.device, dtype)
