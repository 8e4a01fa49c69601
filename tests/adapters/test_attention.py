"""Attention kernels are set for one model alone."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0

from flowbp.adapters import DtypePolicy
from flowbp.adapters import attention as attention_module
from flowbp.adapters.attention import VaeAttention, attend_plainly, avoid_cudnn

from .devices import OnADevice
from .tiny import tiny_vae
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


def attended(processor, latents, cotangent):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        attention = Attention(
            8, heads=1, dim_head=8, norm_num_groups=2, bias=True, residual_connection=True,
            processor=processor,
        ).double()  # fmt: skip
    pixels = latents.detach().clone().requires_grad_()
    images = attention(pixels)
    return images, torch.autograd.grad(images, pixels, cotangent)[0]


@pytest.mark.parametrize(("side", "plainly"), [(4, True), (5, False)])
def test_a_vae_attends_plainly_up_to_a_size_with_the_same_gradient(monkeypatch, side, plainly):
    monkeypatch.setattr(attention_module, "_PLAIN_POSITIONS", 4 * 4)
    generator = torch.Generator().manual_seed(0)
    draws = (torch.randn(2, 8, side, side, generator=generator).double() for _ in range(2))
    latents, cotangent = draws
    fused = attended(AttnProcessor2_0(), latents, cotangent)
    processor, taken = VaeAttention(), []
    plain = processor.plain
    monkeypatch.setattr(
        processor, "plain", lambda *args, **kw: taken.append("plain") or plain(*args, **kw)
    )
    ours = attended(processor, latents.as_subclass(OnADevice), cotangent)
    assert taken == ["plain"] * plainly
    for theirs, mine in zip(fused, ours, strict=True):
        torch.testing.assert_close(mine.as_subclass(torch.Tensor), theirs, rtol=1e-10, atol=1e-10)
    attended(processor, latents, cotangent)
    assert taken == ["plain"] * plainly, "the CPU keeps torch's choice"


def test_another_choice_for_a_vae_is_kept():
    vae = tiny_vae()
    (chosen,) = [part for part in vae.decoder.modules() if isinstance(part, Attention)]
    chosen.set_processor(AttnProcessor())
    attend_plainly(vae)
    assert type(chosen.processor) is AttnProcessor
    chosen.set_processor(AttnProcessor2_0())
    attend_plainly(vae)
    assert type(chosen.processor) is VaeAttention
