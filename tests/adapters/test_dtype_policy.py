"""Dtype policies, alone and under the SD3 adapter."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch

from flowbp.adapters import DtypePolicy, SD3Backbone
from flowbp.core import rollout

FLOAT32, BFLOAT16 = torch.float32, torch.bfloat16
POLICIES = [DtypePolicy(FLOAT32, BFLOAT16), DtypePolicy(BFLOAT16, BFLOAT16)]


@pytest.mark.parametrize(
    "pair", [(BFLOAT16, FLOAT32), (torch.float16, torch.float16), (torch.float64, BFLOAT16)]
)
def test_senseless_pairs_are_refused(pair):
    with pytest.raises(ValueError, match=r"must be one of float32/float32.*use bfloat16"):
        DtypePolicy(*pair)


def test_an_autocast_set_outside_does_not_leak_in():
    with (
        torch.autocast("cpu", dtype=BFLOAT16),
        DtypePolicy().autocast(torch.device("cpu")),
    ):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == FLOAT32


@pytest.fixture(scope="module", params=POLICIES, ids=["autocast", "plain"])
def backbone(request, pipeline):
    return SD3Backbone.from_pipeline(
        deepcopy(pipeline), policy=request.param, text_length=4, gradient_checkpointing=True
    )


def test_weights_follow_the_policy_and_the_state_stays_float32(backbone, pipeline):
    reference = SD3Backbone.from_pipeline(pipeline, text_length=4)
    noise = reference.noise(2, height=16, width=16, generator=torch.Generator().manual_seed(0))
    sigmas = reference.sigmas(4, height=16, width=16)
    prompts = ["red", "two"]
    samples = [
        rollout(each.velocity(each.encode(prompts)), noise, sigmas)
        for each in (backbone, reference)
    ]
    assert {p.dtype for p in backbone.module.parameters()} == {backbone.policy.weights}
    assert {p.dtype for p in backbone.decoder.vae.parameters()} == {BFLOAT16}
    assert {p.dtype for p in backbone.text.clip.encoder.parameters()} == {BFLOAT16}
    assert samples[0].latents.dtype == samples[0].velocities.dtype == FLOAT32
    difference = (samples[0].sample - samples[1].sample).abs().max()
    assert 0 < difference < 0.1
    images = backbone.decode(samples[0].sample)
    assert images.dtype == FLOAT32
    assert (images - reference.decode(samples[0].sample)).abs().max() < 0.05


def test_gradients_reach_the_parameters_in_their_own_dtype(backbone):
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    latents.requires_grad_(True)
    velocity = backbone.velocity(backbone.encode(["red"]))(latents, torch.tensor(0.5))
    velocity.square().mean().backward()
    assert latents.grad.dtype == FLOAT32 and latents.grad.abs().sum() > 0
    gradients = {name: p.grad for name, p in backbone.trainable().items()}
    backbone.module.zero_grad()
    assert all(g is not None and g.dtype == backbone.policy.weights for g in gradients.values())


def test_sigmas_that_bfloat16_would_merge_are_kept_apart(backbone):
    sigmas = torch.tensor([0.900, 0.901])
    assert len(set((sigmas * 1000).to(BFLOAT16).tolist())) == 1
    embedding = backbone.transformer.time_text_embed
    timesteps, modulations = [], []

    def record(module, inputs, output):
        timesteps.append(inputs[0])
        modulations.append(output)

    handle = embedding.register_forward_hook(record)
    velocity = backbone.velocity(backbone.encode(["red"]))
    with torch.no_grad():
        for sigma in sigmas:
            velocity(torch.zeros(1, 4, 8, 8), sigma)
    handle.remove()
    assert [t.dtype for t in timesteps] == [FLOAT32, FLOAT32]
    assert torch.equal(torch.cat(timesteps), sigmas * 1000)
    assert (modulations[0] - modulations[1]).abs().max() > 1e-2


def test_frozen_networks_can_have_a_policy_of_their_own(pipeline):
    backbone = SD3Backbone.from_pipeline(
        deepcopy(pipeline), policy=POLICIES[0], frozen_policy=DtypePolicy()
    )
    assert {p.dtype for p in backbone.decoder.vae.parameters()} == {FLOAT32}
