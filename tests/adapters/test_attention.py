"""Attention kernels are set for one model alone."""

from __future__ import annotations

import pytest
import torch

from flowbp.adapters import DtypePolicy
from flowbp.adapters.attention import avoid_cudnn

from .tiny_flux import flux1_transformer

BFLOAT16 = DtypePolicy(torch.bfloat16, torch.bfloat16)


def backends(transformer):
    found = [getattr(p, "_attention_backend", None) for p in transformer.attn_processors.values()]
    return {None if each is None else each.value for each in found}


def test_flash_attention_is_set_for_this_model_and_no_other():
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry

    before = _AttentionBackendRegistry.get_active_backend()
    transformer, other = flux1_transformer(), flux1_transformer()
    avoid_cudnn(transformer, BFLOAT16, torch.device("cuda"))
    assert backends(transformer) == {"_native_flash"}
    assert backends(other) == {None}
    assert _AttentionBackendRegistry.get_active_backend() == before


@pytest.mark.parametrize(
    ("policy", "device"), [(DtypePolicy(), "cuda"), (BFLOAT16, "cpu")], ids=["float32", "cpu"]
)
def test_nothing_is_set_where_torch_does_not_take_cudnn_s(policy, device):
    transformer = flux1_transformer()
    avoid_cudnn(transformer, policy, torch.device(device))
    assert backends(transformer) == {None}
