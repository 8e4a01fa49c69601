"""Gelu within the matrix product: only where it may be, and nowhere else."""

from __future__ import annotations

import copy

import pytest
import torch
from diffusers.models.attention import FeedForward
from peft import LoraConfig, inject_adapter_in_model
from torch.nn import functional

from flowbp.adapters.fused_gelu import TanhGelu, fuse_gelu

from .devices import OnADevice


@pytest.fixture
def feed_forward():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        part = FeedForward(4, activation_fn="gelu-approximate").double()
    return part


@pytest.fixture
def kernel(monkeypatch):
    """Stands in for cuBLAS's, with the dtypes that it was called with."""
    seen = []

    def fused(bias, rows, weight, *, use_gelu):
        assert use_gelu and rows.ndim == 2
        seen.append({rows.dtype, weight.dtype, bias.dtype})
        return functional.gelu(rows @ weight + bias, approximate="tanh")

    monkeypatch.setattr(torch, "_addmm_activation", fused)
    return seen


def test_values_gradients_and_names_stay(feed_forward):
    plain = copy.deepcopy(feed_forward)
    fuse_gelu(feed_forward)
    assert type(feed_forward.net[0]) is TanhGelu
    assert list(feed_forward.state_dict()) == list(plain.state_dict())
    x = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1)).double()
    found = []
    for part in (plain, feed_forward):
        part.zero_grad()
        part(x).square().sum().backward()
        found.append([part(x), *(p.grad for p in part.parameters())])
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*found, strict=True))


def test_one_kernel_on_a_device_without_gradient_and_only_there(feed_forward, kernel):
    fuse_gelu(feed_forward)
    part = feed_forward.net[0]
    x = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1)).double()
    expected = part(x)
    with torch.no_grad():
        part(x)
        assert not kernel
        torch.testing.assert_close(
            part(x.as_subclass(OnADevice)).as_subclass(torch.Tensor), expected
        )
        assert kernel == [{torch.float64}]
    part(x.as_subclass(OnADevice))
    assert len(kernel) == 1, "a gradient needs what comes before gelu"


def test_autocast_casts_the_weights_too(feed_forward, kernel, monkeypatch):
    part = feed_forward.float()
    fuse_gelu(part)
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda kind: kind == "cuda")
    monkeypatch.setattr(torch, "get_autocast_dtype", lambda kind: torch.bfloat16)
    x = torch.randn(1, 2, 4, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found = part.net[0](x.as_subclass(OnADevice)).as_subclass(torch.Tensor)
        expected = functional.gelu(
            functional.linear(*(t.bfloat16() for t in (x, *part.net[0].proj.parameters()))),
            approximate="tanh",
        )
    assert kernel == [{torch.bfloat16}]
    torch.testing.assert_close(found, expected)


def test_an_adapter_is_not_passed_over(feed_forward, kernel):
    fuse_gelu(feed_forward)
    lora = LoraConfig(r=2, target_modules=["net.0.proj"], init_lora_weights=False)
    part = inject_adapter_in_model(lora, feed_forward).double().net[0]
    x = torch.ones(1, 2, 4).double()
    with torch.no_grad():
        adapted = part(x.as_subclass(OnADevice)).as_subclass(torch.Tensor)
        torch.testing.assert_close(adapted, functional.gelu(part.proj(x), approximate="tanh"))
    assert not kernel


class Quantized(OnADevice):
    """A weight of another kind, as quantization leaves in a layer."""


@pytest.mark.parametrize("change", ["quantized", "hooked", "hooked before"])
def test_a_layer_that_does_more_is_called(feed_forward, kernel, change):
    fuse_gelu(feed_forward)
    part = feed_forward.net[0]
    called = []
    if change == "quantized":
        weight = part.proj.weight.detach().as_subclass(Quantized)
        part.proj.weight = torch.nn.Parameter(weight, requires_grad=False)
        assert type(part.proj.weight) is not torch.nn.Parameter
    elif change == "hooked":
        part.proj.register_forward_hook(lambda *_: called.append(1))
    else:
        part.proj.register_forward_pre_hook(lambda *_: called.append(1))
    with torch.no_grad():
        part(torch.ones(1, 2, 4).double().as_subclass(OnADevice))
    assert not kernel and called == [1] * (change != "quantized")


@pytest.mark.parametrize("activation", ["gelu", "geglu", "linear-silu"])
def test_other_activations_are_left(activation):
    part = FeedForward(4, activation_fn=activation)
    kind = type(part.net[0])
    fuse_gelu(part)
    assert type(part.net[0]) is kind
