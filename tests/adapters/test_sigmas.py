"""The sigma grids are the scheduler's own."""

from __future__ import annotations

import pytest
import torch
from diffusers import EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import calculate_shift

from flowbp.adapters import SD3Backbone, scheduler_sigmas

from .tiny import with_scheduler

SCHEDULES = [
    {},
    {"shift": 3.0},
    {"shift": 0.5, "num_train_timesteps": 400},
    {"shift": 3.0, "use_karras_sigmas": True},
    {"shift_terminal": 0.1},
    {"use_dynamic_shifting": True},
    {"use_dynamic_shifting": True, "time_shift_type": "linear", "max_shift": 2.0},
    {"use_dynamic_shifting": True, "base_image_seq_len": 16, "max_image_seq_len": 64},
]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
@pytest.mark.parametrize("steps", [2, 25])
@pytest.mark.parametrize(("height", "width"), [(16, 16), (24, 48)])
def test_sigmas_are_those_of_the_scheduler(pipeline, schedule, steps, height, width):
    scheduler = FlowMatchEulerDiscreteScheduler(**schedule)
    before = scheduler.sigmas.clone()
    changed = with_scheduler(pipeline, scheduler)
    sigmas = SD3Backbone.from_pipeline(changed).sigmas(steps, height=height, width=width)
    assert torch.equal(scheduler.sigmas, before)

    config = scheduler.config
    mu = None
    if config.use_dynamic_shifting:
        mu = calculate_shift(
            (height // 4) * (width // 4),
            config.base_image_seq_len,
            config.max_image_seq_len,
            config.base_shift,
            config.max_shift,
        )
    scheduler.set_timesteps(steps, mu=mu)
    assert torch.equal(sigmas, scheduler.sigmas)
    assert sigmas.dtype == torch.float32 and sigmas.device.type == "cpu"
    assert sigmas[0] == 1 and sigmas[-1] == 0 and (sigmas.diff() < 0).all()


def test_one_step_goes_straight_from_noise_to_sample():
    sigmas = scheduler_sigmas(FlowMatchEulerDiscreteScheduler(shift=3.0), 1, image_tokens=16)
    assert sigmas.tolist() == [1, 0]


def test_no_step_is_refused():
    with pytest.raises(ValueError, match="`steps` must be at least 1, got 0"):
        scheduler_sigmas(FlowMatchEulerDiscreteScheduler(), 0, image_tokens=16)


@pytest.mark.parametrize("option", ["invert_sigmas", "stochastic_sampling"])
def test_schedulers_that_are_no_euler_descent_are_refused(pipeline, option):
    scheduler = FlowMatchEulerDiscreteScheduler(**{option: True})
    with pytest.raises(ValueError, match=f"`scheduler` must have {option}=False, got True"):
        SD3Backbone.from_pipeline(with_scheduler(pipeline, scheduler))


def test_another_kind_of_scheduler_is_refused(pipeline):
    with pytest.raises(TypeError, match=r"must be a FlowMatchEuler.*got EulerDiscreteScheduler"):
        SD3Backbone.from_pipeline(with_scheduler(pipeline, EulerDiscreteScheduler()))
