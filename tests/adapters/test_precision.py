"""Every policy, with and without gradient checkpointing, under both pulls of the sweep."""

from __future__ import annotations

from copy import deepcopy
from functools import cache

import pytest
import torch

from flowbp.adapters import DtypePolicy
from flowbp.core import (
    Bridge,
    functional_pull,
    guided_pull,
    guided_velocity,
    module_pull,
    read,
    rollout,
    sweep,
)
from flowbp.testing import assert_gradients_close, parametric_velocity

from .families import FAMILIES

FLOAT32, BFLOAT16, FLOAT64 = torch.float32, torch.bfloat16, torch.float64
POLICIES = {
    "float32": DtypePolicy(),
    "autocast": DtypePolicy(FLOAT32, BFLOAT16),
    "bfloat16": DtypePolicy(BFLOAT16, BFLOAT16),
    "float64": DtypePolicy(FLOAT64, FLOAT64),
}
# Equal to rounding; guidance enlarges it, for its two cotangents have opposite signs.
BETWEEN_PULLS = {"float32": 1e-6, "autocast": 3e-2, "bfloat16": 3e-2, "float64": 1e-13}
# FLUX.1's transformer also rounds the timestep where it computes in bfloat16.
FROM_FLOAT32 = {"float32": 0.0, "autocast": 5e-2, "bfloat16": 5e-2, "float64": 1e-5}
SCALE = 3.5
PROMPTS = ["a red box", "two dots"]

# One for each transformer class.
each_family = pytest.mark.parametrize(
    "name", ["sd3", "flux1 dev", "flux2 klein-base", "z_image", "qwen_image"]
)
each_policy = pytest.mark.parametrize("policy", POLICIES)


@cache
def backbone_of(name, policy, checkpointing):
    family, policy = FAMILIES[name], POLICIES[policy]
    # The same conditioning and trajectory for all, so that the gradients alone are compared.
    frozen = policy if policy.weights == FLOAT64 else DtypePolicy()
    return family.backbone(
        deepcopy(family.pipeline()),
        policy=policy,
        frozen_policy=frozen,
        gradient_checkpointing=checkpointing,
    )


def branches(backbone):
    empty = backbone.encode([""]).repeat(len(PROMPTS))
    return backbone.velocity(backbone.encode(PROMPTS)), backbone.velocity(empty)


@cache
def trajectory_of(name, wide):
    backbone = backbone_of(name, "float64" if wide else "float32", False)
    generator = torch.Generator().manual_seed(0)
    noise = backbone.noise(len(PROMPTS), height=16, width=24, generator=generator)
    sigmas = backbone.sigmas(4, height=16, width=24)
    return rollout(guided_velocity(*branches(backbone), SCALE), noise, sigmas)


def swept(name, policy, pull, anchored=False):
    trajectory = trajectory_of(name, policy == "float64")
    plan = Bridge(active=3).draw(trajectory.sigmas, torch.Generator().manual_seed(0))
    x = read(plan, trajectory)
    cotangent = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).to(x)
    anchor = (lambda step: cotangent.roll(1 + step)) if anchored else None
    return sweep(plan, trajectory, cotangent, pull, parameter_cotangent=anchor)


@cache
def by_module(name, policy, checkpointing, anchored=False):
    backbone = backbone_of(name, policy, checkpointing)
    assert backbone.module.gradient_checkpointing is checkpointing
    positive, negative = (module_pull(each) for each in branches(backbone))
    backbone.module.zero_grad()
    swept(name, policy, guided_pull(positive, negative, SCALE), anchored)
    assert {p.dtype for p in backbone.module.parameters()} == {backbone.policy.weights}
    return {
        key: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for key, p in backbone.trainable().items()
    }


def by_function(name, policy, checkpointing):
    backbone = backbone_of(name, policy, checkpointing)
    params = backbone.trainable()
    positive, negative = (
        functional_pull(parametric_velocity(backbone.module, each), params)
        for each in branches(backbone)
    )
    return swept(name, policy, guided_pull(positive, negative, SCALE))


@each_family
@each_policy
def test_checkpointing_changes_no_bit_of_the_gradient(name, policy):
    plain = by_module(name, policy, False)
    assert any(each.any() for each in plain.values())
    assert_gradients_close("gradient", by_module(name, policy, True), plain, tolerance=0)


@each_family
@each_policy
def test_blocks_are_recomputed_for_each_of_two_passes_over_one_graph(name, policy):
    """At the joint a cotangent for the parameters alone asks for a second one."""
    plain = by_module(name, policy, False, anchored=True)
    assert any((plain[key] - each).any() for key, each in by_module(name, policy, False).items())
    found = by_module(name, policy, True, anchored=True)
    assert_gradients_close("gradient", found, plain, tolerance=0)


@each_family
@each_policy
def test_both_pulls_give_the_same_gradient(name, policy):
    functional = by_function(name, policy, False)
    expected = by_module(name, policy, False)
    assert_gradients_close("gradient", functional, expected, BETWEEN_PULLS[policy])


@each_family
@each_policy
def test_the_functional_pull_refuses_checkpointing(name, policy):
    message = "turn gradient_checkpointing off, or use `module_pull`"
    with pytest.raises(RuntimeError, match=message):
        by_function(name, policy, True)


@each_family
@each_policy
def test_gradients_are_close_to_those_of_float32_and_in_the_dtype_of_the_weights(name, policy):
    for gradients in (by_module(name, policy, False), by_function(name, policy, False)):
        assert {each.dtype for each in gradients.values()} == {POLICIES[policy].weights}
        wide = {key: each.double() for key, each in gradients.items()}
        expected = {key: each.double() for key, each in by_module(name, "float32", False).items()}
        tolerance = max(FROM_FLOAT32[policy], BETWEEN_PULLS["float32"])
        assert_gradients_close("gradient", wide, expected, tolerance)
