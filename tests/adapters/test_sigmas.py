"""Sigmas are those of the pipelines; grids make others."""

from __future__ import annotations

from copy import deepcopy
from types import SimpleNamespace

import attrs
import pytest
import torch
from diffusers import EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import calculate_shift

from flowbp.adapters import (
    EvenGrid,
    ListedGrid,
    ModelGrid,
    SD3Backbone,
    even_levels,
    scheduler_sigmas,
)
from flowbp.core import DRaFTLV
from flowbp.evaluation import Sampling, generate
from flowbp.testing import check_parity

from .families import FAMILIES
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


SIZE = dict(height=16, width=24)


LEVELS = (1.0, 0.8, 0.35)


GRIDS = [ModelGrid(), EvenGrid(), EvenGrid(3.0), ListedGrid(LEVELS), ListedGrid(LEVELS, 1.0)]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return FAMILIES[request.param]


@attrs.frozen
class OnGrid:
    """A backbone whose own grid is another."""

    backbone: object
    grid: object

    def __getattr__(self, name):
        return getattr(self.backbone, name)

    def sigmas(self, steps, *, height, width):
        return self.grid.sigmas_of(self.backbone, steps, height=height, width=width)


def test_the_published_grid_of_sd35_medium():
    sigmas = EvenGrid(shift=3.0).known(25)
    levels = torch.linspace(1, 1 / 25, 25, dtype=torch.float64)
    assert torch.allclose(sigmas[:-1].double(), 3 * levels / (1 + 2 * levels), rtol=0, atol=5e-7)
    assert sigmas.shape == (26,) and sigmas.dtype == torch.float32
    assert sigmas[0] == 1 and sigmas[-1] == 0
    assert sigmas[-2].item() == pytest.approx(1 / 9, abs=1e-7)


def test_the_grid_decides_the_weight_of_the_last_step(pipeline):
    """DRaFT-LV's is twelve times as large on the published grid as on diffusers' own."""
    backbone = SD3Backbone.from_pipeline(pipeline)
    weights = {}
    for grid in (EvenGrid(shift=3.0), ModelGrid()):
        plan = DRaFTLV(noised=2).draw(grid.sigmas_of(backbone, 25, **SIZE), torch.Generator())
        weights[grid] = plan.segments[-1].weights[24]
    assert weights[EvenGrid(shift=3.0)] == pytest.approx(-0.11111, abs=1e-5)
    assert weights[ModelGrid()] == pytest.approx(-0.00893, abs=1e-5)


@pytest.mark.parametrize("steps", [1, 4, 25])
def test_a_shift_given_is_the_schedulers_to_the_bit(pipeline, steps):
    """With the same number, whether the scheduler shifts or the grid."""
    for shift in (3.0, 0.5, 6.0):
        changed = with_scheduler(pipeline, FlowMatchEulerDiscreteScheduler(shift=shift))
        backbone = SD3Backbone.from_pipeline(changed)
        by_scheduler = EvenGrid().sigmas_of(backbone, steps, **SIZE)
        assert torch.equal(EvenGrid(shift).sigmas_of(backbone, steps, **SIZE), by_scheduler)


@pytest.mark.parametrize("grid", [EvenGrid(), ListedGrid(LEVELS)], ids=str)
def test_a_grid_samples_as_the_pipeline_given_its_levels(family, grid):
    backbone = family.backbone()
    levels = even_levels(3) if isinstance(grid, EvenGrid) else LEVELS

    def call(pipeline, request):
        return family.sample(
            pipeline,
            list(request.prompts),
            scale=request.guidance,
            height=request.height,
            width=request.width,
            num_inference_steps=request.steps,
            sigmas=list(levels),
            latents=request.latents,
            output_type=request.output,
        )

    check_parity(
        family.pipeline(),
        OnGrid(backbone, grid),
        call,
        sizes=[(16, 24)],
        steps=3,
        returned=lambda latents: family.published(backbone, latents),
    )


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_the_lines_that_a_run_ends_with_sample_alike(family, grid, guidance):
    backbone, pipeline = family.backbone(), deepcopy(family.pipeline())
    pipeline.set_progress_bar_config(disable=True)
    sigmas = grid.sigmas_of(backbone, 3, **SIZE)
    lines = backbone.sampling(sigmas, guidance=guidance, negative_prompt="", **SIZE)
    noise = backbone.noise(1, generator=torch.Generator().manual_seed(5), **SIZE)

    def called(*args, **options):
        return pipeline(*args, latents=family.packed(noise), output_type="pt", **options)

    names = {"pipeline": _Called(pipeline, called)}
    exec(lines, names)
    sampling = Sampling(steps=3, guidance=guidance, grid=grid, **SIZE)
    fixed = _WithNoise(backbone, noise)
    ours = generate(fixed, ["a prompt"], 0, sampling)
    assert torch.allclose(names["images"], ours, rtol=0, atol=1e-5)


@attrs.define
class _Called:
    """A pipeline whose call is replaced, and whose scheduler can be."""

    pipeline: object
    call: object

    def __call__(self, *args, **options):
        return self.call(*args, **options)

    @property
    def scheduler(self):
        return self.pipeline.scheduler

    @scheduler.setter
    def scheduler(self, scheduler):
        self.pipeline.scheduler = scheduler


@attrs.frozen
class _WithNoise:
    backbone: object
    given: object

    def __getattr__(self, name):
        return getattr(self.backbone, name)

    def noise(self, count, **_):
        return self.given


def test_what_a_pipeline_cannot_sample_is_not_claimed():
    size = dict(height=16, width=16)
    for name, guidance, negative in (("sd3", 0.5, ""), ("flux2 klein-base", 3.0, "blurred")):
        backbone = FAMILIES[name].backbone()
        sigmas = backbone.sigmas(3, **size)
        line = backbone.sampling(sigmas, guidance=guidance, negative_prompt=negative, **size)
        assert line.startswith("# ") and backbone.layout.pipeline in line


@pytest.mark.parametrize(
    "levels",
    [(), (0.9, 0.5), (1.0, 0.5, 0.5), (1.0, 0.5, 0.0), (1.0, 1 - 1e-9), (1.0, float("nan"))],
)
def test_levels_that_do_not_fall_from_one_are_refused(levels):
    with pytest.raises(ValueError, match="`sigmas` must fall from 1") as caught:
        ListedGrid(levels)
    assert str(list(levels)) in str(caught.value)


@pytest.mark.parametrize("shift", [0.0, -1.0, float("inf"), float("nan")])
def test_a_shift_that_is_no_number_above_0_is_refused(shift):
    for make in (EvenGrid, lambda shift: ListedGrid(LEVELS, shift)):
        with pytest.raises(ValueError, match=f"`shift` must be .*got {shift}"):
            make(shift)


def test_a_shift_under_which_levels_become_one_is_refused():
    with pytest.raises(ValueError, match=r"`shift` is 1e\+12, under which several of the 25"):
        EvenGrid(1e12).known(25)


def test_another_number_of_levels_than_steps_is_refused(pipeline):
    grid, backbone = ListedGrid(LEVELS), SD3Backbone.from_pipeline(pipeline)
    for ask in (lambda: grid.known(4), lambda: grid.sigmas_of(backbone, 4, **SIZE)):
        with pytest.raises(ValueError, match="`grid` lists 3 sigmas and there are 4 steps"):
            ask()


def test_a_backbone_of_ones_own_needs_no_shift_where_the_grid_names_it():
    own = SimpleNamespace(sigmas=lambda steps, *, height, width: torch.linspace(1, 0, steps + 1))
    assert torch.equal(ModelGrid().sigmas_of(own, 4, **SIZE), torch.linspace(1, 0, 5))
    assert torch.equal(EvenGrid(3.0).sigmas_of(own, 4, **SIZE), EvenGrid(3.0).known(4))
    with pytest.raises(ValueError, match=r"`shift` is null.*SimpleNamespace has no `shifted`"):
        EvenGrid().sigmas_of(own, 4, **SIZE)
