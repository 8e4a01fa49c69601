"""The decoder with channels last: the same numbers, and no convolution that has to transpose."""

from __future__ import annotations

import copy

import pytest
import torch
from diffusers.models.autoencoders.vae import Decoder
from functorch.compile import make_boxed_func
from hypothesis import given
from hypothesis import strategies as st
from torch._dynamo.backends.common import aot_autograd
from torch._inductor.decomposition import select_decomp_table

from flowbp.adapters.channels_last import (
    ChannelsLastGroupNorm,
    doubled,
    lay_out_channels_last,
)


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
