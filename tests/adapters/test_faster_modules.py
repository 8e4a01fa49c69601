"""Attention of a VAE, group norm, upsampling and gelu in the networks of diffusers."""

from __future__ import annotations

import copy

import pytest
import torch
from diffusers.models.attention import FeedForward
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from diffusers.models.autoencoders.vae import Decoder
from functorch.compile import make_boxed_func
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, inject_adapter_in_model
from torch._dynamo.backends.common import aot_autograd
from torch._inductor.decomposition import select_decomp_table
from torch.nn import functional

from flowbp.adapters import faster_modules
from flowbp.adapters.faster_modules import (
    ChannelsLastGroupNorm,
    TanhGelu,
    VaeAttention,
    attend_plainly,
    doubled,
    fuse_gelu,
    lay_out_channels_last,
)

from .devices import OnADevice
from .tiny import tiny_vae


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
    monkeypatch.setattr(faster_modules, "_PLAIN_POSITIONS", 4 * 4)
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


@pytest.fixture
def decoder():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = Decoder(
            in_channels=4,
            block_out_channels=(8, 16),
            up_block_types=("UpDecoderBlock2D",) * 2,
            layers_per_block=1,
            norm_num_groups=4,
        )
    return made.double().requires_grad_(False).eval()


def noise(*shape):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def test_pictures_and_gradients_stay_and_so_do_the_names(decoder):
    laid_out = copy.deepcopy(decoder)
    lay_out_channels_last(laid_out)
    assert list(laid_out.state_dict()) == list(decoder.state_dict())
    latents = noise(2, 4, 6, 4).requires_grad_()
    found = []
    for each in (decoder, laid_out):
        images = each(latents)
        (gradient,) = torch.autograd.grad(images, latents, noise(*images.shape))
        found.append((images.detach(), gradient))
    for theirs, ours in zip(*found, strict=True):
        assert (ours - theirs).norm() <= 1e-13 * theirs.norm()


def test_laying_out_twice_changes_nothing_more(decoder):
    lay_out_channels_last(decoder)
    latents = noise(1, 4, 4, 4)
    once = decoder(latents)
    lay_out_channels_last(decoder)
    assert torch.equal(decoder(latents), once)


def test_no_convolution_transposes_and_no_gradient_is_scattered(decoder):
    """In the graphs that a compiler gets, as for a GPU: forward and backward."""
    lay_out_channels_last(decoder)
    read, names = [], []

    def record(graph, inputs):
        for node in graph.graph.nodes:
            names.append(str(node.target))
            if "convolution" in names[-1]:
                read.extend(each.meta["val"] for each in node.args[:2])
        return make_boxed_func(graph.forward)

    torch._dynamo.reset()
    backend = aot_autograd(
        fw_compiler=record, bw_compiler=record, decompositions=select_decomp_table()
    )
    decoder.compile(backend=backend, dynamic=False)
    latents = noise(2, 4, 8, 8).requires_grad_()
    decoder(latents).square().sum().backward()
    # The latents themselves, small, come as they are, and their gradient's layer reads them.
    pictures = [value for value in read if value.shape[1:] != latents.shape[1:]]
    assert len(pictures) > 40
    assert all(v.is_contiguous(memory_format=torch.channels_last) for v in pictures)
    assert not [name for name in names if "index_put" in name or "native_group_norm" in name]


@given(
    groups=st.sampled_from([1, 2, 3]),
    width=st.integers(1, 3),
    spatial=st.lists(st.integers(1, 4), min_size=1, max_size=2),
    affine=st.booleans(),
    offset=st.sampled_from([0.0, 100.0]),
)
def test_group_norm_is_torch_s(groups, width, spatial, affine, offset):
    channels = groups * width
    norms = [
        kind(groups, channels, affine=affine, dtype=torch.float64)
        for kind in (torch.nn.GroupNorm, ChannelsLastGroupNorm)
    ]
    if affine:
        for norm in norms:
            norm.weight.data, norm.bias.data = noise(channels), noise(channels) + 1
    x = (noise(2, channels, *spatial) + offset).requires_grad_()
    found = []
    for norm in norms:
        y = norm(x)
        (gradient,) = torch.autograd.grad(y, x, noise(*y.shape) - 1)
        found.append((y, gradient))
    for theirs, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)


def test_half_precision_is_normalized_in_float32():
    """The mean of a group is 300 times its spread, which bfloat16 alone would lose."""
    x = (noise(1, 8, 16, 16) / 100 + 3).bfloat16()
    exact = torch.nn.GroupNorm(2, 8, dtype=torch.float64)(x.double())
    ours = ChannelsLastGroupNorm(2, 8, dtype=torch.bfloat16)(x)
    assert ours.dtype == torch.bfloat16
    assert (ours.double() - exact).abs().max() <= 2**-8 * exact.abs().max()


def test_every_pixel_is_doubled_as_nearest_neighbour_does():
    pixels = noise(2, 3, 4, 5).requires_grad_()
    theirs, ours = torch.nn.functional.interpolate(pixels, scale_factor=2), doubled(pixels)
    assert torch.equal(ours, theirs)
    assert ours.is_contiguous(memory_format=torch.channels_last)
    cotangent = noise(*ours.shape)
    gradients = [torch.autograd.grad(y, pixels, cotangent)[0] for y in (theirs, ours)]
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)


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
