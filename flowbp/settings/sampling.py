"""What follows from a run's settings: its samplings, an example plan, its evaluations' interval."""

from __future__ import annotations

import torch

from flowbp.adapters import Grid
from flowbp.core import Surrogate
from flowbp.evaluation import Sampling
from flowbp.settings.device import chosen_device
from flowbp.settings.schema import Settings
from flowbp.training import AUTO


def example_plan(settings: Settings) -> Surrogate:
    """What the method may draw on the sampling's grid, see `drawn_plan`."""
    return drawn_plan(settings, settings.run.seed)


def drawn_plan(settings: Settings, seed: int) -> Surrogate:
    """What the method draws from a seed.

    Where the grid is the model's, which is only known once it is loaded, one of shift 3 stands for
    it, so that rules differ which agree on even steps alone.
    """
    sampling = settings.sampling
    known = sampling.grid.known(sampling.steps)
    even = torch.linspace(1, 0, sampling.steps + 1)
    grid = 3 * even / (1 + 2 * even) if known is None else known
    return settings.method.draw(grid, torch.Generator().manual_seed(seed))


def evaluation_sampling(settings: Settings) -> Sampling | None:
    """How held-out prompts are sampled; None without an evaluation."""
    sampling, evaluation = settings.sampling, settings.evaluation
    if evaluation is None:
        return None
    return _sampling(
        settings,
        steps=evaluation.steps or sampling.steps,
        guidance=sampling.guidance if evaluation.guidance is None else evaluation.guidance,
        grid=evaluation.grid or sampling.grid,
        batch=evaluation.batch,
    )


def calibration_sampling(settings: Settings) -> Sampling:
    """How pictures are sampled that a weighted reward is calibrated on: as in training."""
    sampling = settings.sampling
    return _sampling(
        settings,
        steps=sampling.steps,
        guidance=sampling.guidance,
        grid=sampling.grid,
        batch=settings.batching.samples,
    )


def _sampling(
    settings: Settings, *, steps: int, guidance: float, grid: Grid, batch: int
) -> Sampling:
    decode = settings.batching.decode
    if decode == AUTO:
        # Nothing is measured before training; one picture at a time fits if a training step does.
        on_cuda = chosen_device(settings.run.device).type == "cuda"
        decode = 1 if on_cuda else batch
    return Sampling(
        steps=steps,
        height=settings.sampling.height,
        width=settings.sampling.width,
        guidance=guidance,
        negative_prompt=settings.sampling.negative_prompt,
        batch=batch,
        decode=decode,
        grid=grid,
    )


def interval(settings: Settings) -> int | None:
    """Optimizer steps from one evaluation inside the run to the next."""
    stop, evaluation = settings.early_stop, settings.evaluation
    every = evaluation.every if evaluation else None
    return every or (stop.every if stop else None)
