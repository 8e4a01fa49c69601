"""The velocity checks pass on sound fields and modules, and find faults."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from flowbp.testing import (
    check_gradients,
    check_velocity_field,
    parametric_velocity,
    random_problem,
)

PROBLEM = random_problem(torch.linspace(1, 0, 6), event=(2, 2), batch=2)
SIGMA = torch.tensor(0.5, dtype=torch.float64)


def test_sound_fields_pass():
    check_velocity_field(PROBLEM.field, PROBLEM.params, PROBLEM.noise, SIGMA)
    check_gradients(PROBLEM.field, PROBLEM.params, PROBLEM.noise, PROBLEM.sigmas)


def test_a_module_is_checked_through_functional_call():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 4)).double()

    velocity = parametric_velocity(module, lambda latents, sigma: module(latents) * sigma)
    params = dict(module.named_parameters())
    noise = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator())
    check_velocity_field(velocity, params, noise, SIGMA)
    check_gradients(velocity, params, noise, PROBLEM.sigmas)
    assert all(p.grad is None for p in params.values())


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda p, x, s: PROBLEM.field(p, x, s)[:1], "shape"),
        (lambda p, x, s: PROBLEM.field(p, x, s).float(), "dtype"),
        (lambda p, x, s: PROBLEM.field(p, x, s) / 0 * 0, "finite"),
        (lambda p, x, s: PROBLEM.field(p, x, s) * torch.rand(()), "deterministic"),
        (lambda p, x, s: PROBLEM.field(p, x.mul_(1.5), s) * 0 + 1, "must not change its latents"),
    ],
)
def test_faults_of_the_values_are_found(broken, message):
    with pytest.raises(AssertionError, match=message):
        check_velocity_field(broken, PROBLEM.params, PROBLEM.noise.clone(), SIGMA)


@pytest.mark.parametrize(
    "broken",
    [
        lambda p, x, s: PROBLEM.field(p, x.detach(), s),
        lambda p, x, s: PROBLEM.field({**p, "time": p["time"].detach()}, x, s),
    ],
)
def test_a_detached_part_is_found(broken):
    with pytest.raises(AssertionError, match="exact gradient along a direction"):
        check_gradients(broken, PROBLEM.params, PROBLEM.noise, PROBLEM.sigmas)
