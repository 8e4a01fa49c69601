"""The parity check passes on a sampler written out beside its backbone, and finds each fault."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import pytest
import torch

from flowbp.adapters import Conditioning
from flowbp.testing import call_pipeline, check_parity
from flowbp.testing.assertions import assert_within

FACTOR = torch.linspace(0.5, 1.5, 4)


class Backbone:
    """The velocity is the prompt's length times a factor times the latents."""

    device = torch.device("cpu")

    def encode(self, prompts):
        return Conditioning({"length": torch.tensor([[len(each) / 10] for each in prompts])})

    def noise(self, count, *, height, width, generator):
        return torch.randn(count, 4, generator=generator) * (height / width)

    def sigmas(self, steps, *, height, width):
        return torch.linspace(1, 0, steps + 1)

    def velocity(self, conditioning):
        return lambda x, sigma: conditioning.tensors["length"] * FACTOR * x

    def decode(self, latents):
        return latents.sigmoid().reshape(-1, 1, 2, 2).expand(-1, 3, 2, 2)


def pipeline(
    prompt,
    *,
    num_inference_steps,
    guidance_scale,
    latents,
    output_type,
    fault=lambda x, i: x,
    decoded=torch.sigmoid,
    generator=None,
    height=None,
    width=None,
):
    """Guidance against the empty prompt, whose velocity is zero, is a scale on the length."""
    speed = guidance_scale * torch.tensor([[len(each) / 10] for each in prompt])
    x = latents
    for i in range(num_inference_steps):
        x = fault(x - speed * FACTOR * x / num_inference_steps, i)
    if output_type == "pt":
        x = decoded(x).reshape(-1, 1, 2, 2).expand(-1, 3, 2, 2)
    return SimpleNamespace(images=x)


def check(call=call_pipeline, **settings):
    check_parity(pipeline, Backbone(), call, **({"sizes": [(8, 8), (8, 16)]} | settings))


def test_equal_samplers_pass():
    check()


def test_latents_are_brought_to_the_form_of_the_pipeline():
    def flat(pipeline, request):
        output = call_pipeline(pipeline, request)
        return output.flip(1) if request.output == "latent" else output

    check(flat, returned=lambda latents: latents.flip(1))
    with pytest.raises(AssertionError, match="`latents at 8x8 with guidance 1` must agree"):
        check(flat)


def test_the_generator_of_every_call_draws_the_same_noise():
    def drawing(pipeline, request):
        drawn = torch.randn(2, 4, generator=request.generator) * (request.height / request.width)
        return call_pipeline(pipeline, request, latents=drawn)

    check(drawing)


def test_the_largest_difference_is_reported_with_its_place():
    def off(x, i):
        return x + torch.tensor([[0, 0, 0, 0], [0, 0, 0.25, 0.125]]) if i == 4 else x

    message = (
        r"`latents at 8x8 with guidance 1` must agree to 1e-05, got a difference of 0.25 at "
        r"\(1, 2\), .* was expected; 2 of 8 entries are off"
    )
    with pytest.raises(AssertionError, match=message):
        check(partial(call_pipeline, fault=off))


def test_a_fault_of_one_case_alone_is_found():
    def ignoring(pipeline, request):
        return call_pipeline(pipeline, request, guidance_scale=1.0)

    check(ignoring, guidances=[1.0])
    with pytest.raises(AssertionError, match=r"latents at 8x8 with guidance 3\.5"):
        check(ignoring)

    def square_only(pipeline, request):
        return call_pipeline(pipeline, request) * (request.height / request.width)

    check(square_only, sizes=[(8, 8)])
    with pytest.raises(AssertionError, match="latents at 8x16 with guidance 1"):
        check(square_only)


def test_another_decoding_is_found():
    with pytest.raises(AssertionError, match=r"`images at 8x8.* at \(1, 0, 0, 0\), "):
        check(partial(call_pipeline, decoded=torch.tanh))


def test_what_is_not_finite_is_off():
    def broken(x, i):
        return torch.where(torch.arange(4) == 3, torch.nan, x)

    with pytest.raises(AssertionError, match=r"difference of nan at \(0, 3\).*; 2 of 8"):
        check(partial(call_pipeline, fault=broken))
    assert_within("nothing", torch.empty(0), torch.empty(0), 0.0)


@pytest.mark.parametrize("name", ["sizes", "guidances", "prompts"])
def test_nothing_to_check_is_refused(name):
    with pytest.raises(ValueError, match=f"`{name}` must hold at least one"):
        check(**{name: []})
