"""What a training step costs, so that methods are compared at equal cost."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import attrs
import torch

from flowbp.core import Cotangents, Surrogate, module_pull
from flowbp.rewards.reward import in_parts
from flowbp.training import TrainingSampling, TrainingStep, cost, generator
from flowbp.validators import real

_REPEATS = 5


@attrs.frozen(kw_only=True)
class CostWeights:
    """What each part of a step costs for a sample, in seconds or any other unit.

    Args:
        forward: a velocity without gradient.
        pull: a velocity with gradient and its pullback.
        picture: decoder and reward, forward and back.

    Example:
        >>> CostWeights(forward=1, pull=3, picture=2).of(forward=10, pulls=4, pictures=1)
        24
    """

    forward: float = attrs.field(validator=real(0, above=True))
    pull: float = attrs.field(validator=real(0))
    picture: float = attrs.field(validator=real(0))

    def of(self, *, forward: float, pulls: float, pictures: float) -> float:
        """The cost of so many of each."""
        return self.forward * forward + self.pull * pulls + self.picture * pictures


def measure_weights(
    step: TrainingStep,
    prompts: Sequence[str],
    *,
    clock: Callable[[], float] = time.perf_counter,
) -> CostWeights:
    """Measure in seconds what a step's parts cost for a sample, on the device as it is now.

    Args:
        step: whose backbone and reward are measured.
        prompts: of a batch.
        clock: seconds from any origin.

    Example:
        See docs/study.md.
    """
    backbone, sampling, count = step.backbone, step.sampling, len(prompts)
    conditioning = backbone.encode(list(prompts))
    noise = backbone.noise(
        count, height=sampling.height, width=sampling.width, generator=generator(0, "cost")
    ).to(backbone.device)
    field, sigma = backbone.velocity(conditioning), step.sigmas[0]

    def forward() -> None:
        with torch.no_grad():
            field(noise, sigma)

    def pull() -> None:
        module_pull(field)(noise, sigma, Cotangents(noise, through_latents=False))

    def picture() -> None:
        latents = noise.detach().requires_grad_()
        found = in_parts(step.reward, backbone.decode(latents), list(prompts)).scores
        torch.autograd.grad(found.sum(), latents)

    try:
        measured = {
            part.__name__: _seconds(part, backbone.device, clock) / count
            for part in (forward, pull, picture)
        }
    finally:
        for parameter in backbone.trainable().values():
            parameter.grad = None
    return CostWeights(**measured)


def _seconds(act: Callable[[], None], device: torch.device, clock: Callable[[], float]) -> float:
    times = []
    # The first call is a warm-up.
    for _ in range(1 + _REPEATS):
        began = clock()
        act()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(clock() - began)
    return statistics.median(times[1:])


def mean_cost(
    surrogates: Sequence[Surrogate],
    sampling: TrainingSampling,
    weights: CostWeights,
    *,
    anchored: bool = False,
    rescaled: bool = False,
) -> float:
    """The mean cost of a step for each sample of its batch, over some of a method's surrogates."""
    each = [cost(one, sampling, anchored=anchored, rescaled=rescaled) for one in surrogates]
    return statistics.fmean(
        weights.of(forward=one.forward, pulls=one.backward, pictures=one.pictures) for one in each
    )


def steps_at(budget: float, cost_of_step: float) -> int:
    """The optimizer steps that come nearest to a budget; one at least."""
    return max(1, round(budget / cost_of_step))
