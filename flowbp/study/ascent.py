"""Ascent: the reward gained after a step along a method's gradient, on the same samples and others.

A gradient that fits its own samples is no use to a training run, which takes each step for the
sake of samples to come. So a step's gain is measured twice: on the prompts and noise that the
gradient is of, and on others.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from flowbp.adapters.backbone import guided_field
from flowbp.adapters.capabilities import rescale_of
from flowbp.core import DRaFT, rollout
from flowbp.evaluation.reward_metrics import WHOLE, rewarded
from flowbp.limits import BATCH, COUNT
from flowbp.study.agreement import Agreement, Gradient, GradientSums, inner, norm
from flowbp.study.directions import DIRECTIONS, Direction
from flowbp.training import Batching, PromptSource, Streams, TrainingStep, generator
from flowbp.training.prompts import drawn
from flowbp.validators import integer


class GradientError(ValueError):
    """A gradient is not finite."""


@attrs.frozen(eq=False)
class Samples:
    """Prompts, each with the noise it is sampled from, (B, …)."""

    prompts: tuple[str, ...]
    noise: Tensor


@torch.no_grad()
def rewards(step: TrainingStep, samples: Samples) -> Tensor:
    """The rewards of samples under the model as it is, (B,) in float64 on the CPU."""
    backbone, sampling, size = step.backbone, step.sampling, step.batching.samples
    negative = backbone.encode([sampling.negative_prompt]) if sampling.guided else None
    found = []
    for start in range(0, len(samples.prompts), size):
        texts = list(samples.prompts[start : start + size])
        field = guided_field(
            backbone.velocity,
            backbone.encode(texts),
            negative,
            sampling.guidance,
            rescale=rescale_of(backbone),
        )
        noise = samples.noise[start : start + size].to(backbone.device)
        latents = rollout(field, noise, step.sigmas).sample
        decode = step.sizes.decode
        for first in range(0, len(texts), decode):
            part = slice(first, first + decode)
            images = backbone.decode(latents[part])
            found.append(rewarded(images, texts[part], step.reward)[WHOLE])
    return torch.cat(found)


def _ascending(_: object, attribute: attrs.Attribute[Any], value: tuple[float, ...]) -> None:
    if not value or min(value) <= 0 or list(value) != sorted(set(value)):
        raise ValueError(
            f"`{attribute.name}` must be ascending numbers above 0, got {list(value)}; "
            "[1e-4, 1e-3, 1e-2] of the parameters' norm is a range to begin with"
        )


def _known(_: object, attribute: attrs.Attribute[Any], value: tuple[str, ...]) -> None:
    if not value or len(set(value)) < len(value) or not set(value) <= set(DIRECTIONS):
        raise ValueError(
            f"`{attribute.name}` must be some of {', '.join(DIRECTIONS)}, each once, got "
            f"{list(value)}"
        )


@attrs.frozen(kw_only=True)
class AscentSettings:
    """What is measured of steps along the methods' gradients.

    Args:
        draws: of surrogate, prompts and noise, each measured for itself.
        batch: samples of a gradient.
        batches: disjoint ones of a draw; the step goes along the mean of their gradients.
        others: samples that the gradient is not of.
        lengths: of the step, in norms of the parameters, or absolute.
        relative: whether in norms of the parameters.
        directions: `raw`, the gradient itself; `adam`, as Adam's first step, about its sign; `rms`,
            as Adam with the mean squares over the batches.
        exact: whether the exact gradient is computed too, to compare with.

    Raises:
        ValueError: a number is out of range.

    Example:
        >>> AscentSettings(batch=16).lengths[0]
        0.0001
    """

    draws: int = attrs.field(default=6, validator=integer(1, COUNT))
    batch: int = attrs.field(validator=integer(1, BATCH))
    batches: int = attrs.field(default=4, validator=integer(2, COUNT))
    others: int = attrs.field(default=64, validator=integer(1, COUNT))
    lengths: tuple[float, ...] = attrs.field(
        default=(1e-4, 3e-4, 1e-3, 3e-3, 1e-2), validator=_ascending
    )
    relative: bool = True
    directions: tuple[str, ...] = attrs.field(default=("raw", "adam"), validator=_known)
    exact: bool = True


@attrs.frozen(kw_only=True)
class Gains:
    """Mean rewards gained after a step, a number for each length."""

    same: tuple[float, ...]
    others: tuple[float, ...]


@attrs.frozen(kw_only=True)
class Ascent:
    """What one draw of plan, prompts and noise says of a method.

    Args:
        lengths: of the steps, absolute.
        parameters: how many are trained; a step of length h changes each by `h / √parameters`,
            root mean square, which is comparable to Adam's rate.
        gains: by direction.
        before: mean reward before a step, of the same samples and of the others.
        agreement: of the gradients of the batches.
        cosine: of the gradient with the exact one of the same samples; None if not asked for.
        norm_ratio: of both likewise.
    """

    lengths: tuple[float, ...]
    parameters: int
    gains: Mapping[str, Gains]
    before: tuple[float, float]
    agreement: Agreement
    cosine: float | None
    norm_ratio: float | None


def measure_ascent(
    step: TrainingStep,
    prompts: PromptSource,
    settings: AscentSettings,
    *,
    seed: int,
    draw: int,
    directions: Mapping[str, Direction] = DIRECTIONS,
) -> Ascent:
    """Measure what steps along a method's gradient gain.

    Everything random depends on `seed` and `draw` alone, so that methods are compared on the same
    prompts and noise; all batches of a draw have one surrogate. The model is left as it was.

    Args:
        step: of the method; its anchor is left out.
        prompts: where they are drawn from.
        settings: what is measured.
        seed: of the study.
        draw: the number of this draw.
        directions: what the names of `settings.directions` stand for.

    Raises:
        GradientError: a gradient is not finite.
        ValueError: the batch does not divide into the step's portions.
        ComponentError: a part of the run failed.

    Example:
        See docs/study.md.
    """
    step = attrs.evolve(resized(step, settings.batch), anchor=None)
    own, others = _samples(step, prompts, settings, seed=seed, draw=draw)
    exact, cosine, ratio = None, None, None
    if settings.exact:
        # First, because each gathering keeps three gradients, which are as large as the model.
        exact_method = DRaFT(last=step.sampling.steps)
        whole = attrs.evolve(step, method=exact_method, sample_clip=None)
        exact = _gradients(whole, own, seed=seed, draw=draw).mean
    sums = _gradients(step, own, seed=seed, draw=draw)
    if exact is not None:
        cosine, ratio = _fidelity(sums.mean, exact)
    del exact
    parameters, sides = step.backbone.trainable(), (own, others)
    scale = norm({n: p.detach() for n, p in parameters.items()}) if settings.relative else 1.0
    lengths = tuple(each * scale for each in settings.lengths)
    before = [rewards(step, side) for side in sides]
    gains = {}
    for name in settings.directions:
        along, rows = directions[name](sums), list[list[float]]()
        for length in lengths:
            with moved(parameters, along, length):
                pairs = zip(sides, before, strict=True)
                rows.append([(rewards(step, side) - base).mean().item() for side, base in pairs])
        same, fresh = zip(*rows, strict=True)
        gains[name] = Gains(same=same, others=fresh)
    return Ascent(
        lengths=lengths,
        parameters=sum(each.numel() for each in parameters.values()),
        gains=gains,
        before=(before[0].mean().item(), before[1].mean().item()),
        agreement=sums.agreement,
        cosine=cosine,
        norm_ratio=ratio,
    )


def _fidelity(gradient: Gradient, exact: Gradient) -> tuple[float, float]:
    """The cosine of a gradient with the exact one, and the ratio of their norms."""
    sizes = norm(gradient), norm(exact)
    cosine = inner(gradient, exact) / (sizes[0] * sizes[1]) if all(sizes) else math.nan
    return cosine, sizes[0] / sizes[1] if sizes[1] else math.nan


def _samples(
    step: TrainingStep, prompts: PromptSource, settings: AscentSettings, *, seed: int, draw: int
) -> tuple[Samples, Samples]:
    """Those that a draw's gradient is of, with the noise that the step itself draws, and others."""
    sampling, size = step.sampling, settings.batch
    stream = iter(prompts.stream(_stream(seed, draw, "prompts")))
    texts = drawn(prompts, stream, size * settings.batches + settings.others)

    def noise(count: int, name: str) -> Tensor:
        own = _stream(seed, draw, name)
        size = {"height": sampling.height, "width": sampling.width}
        return step.backbone.noise(count, **size, generator=own)

    own = torch.cat([noise(size, f"noise {k}") for k in range(settings.batches)])
    others = noise(settings.others, "others")
    return Samples(tuple(texts[: len(own)]), own), Samples(tuple(texts[len(own) :]), others)


def _stream(seed: int, draw: int, name: str) -> torch.Generator:
    return generator(seed, f"ascent {draw} {name}")


def _gradients(step: TrainingStep, samples: Samples, *, seed: int, draw: int) -> GradientSums:
    """The gradients of the reward, minus those of the loss, of each batch."""
    sums, parameters, size = GradientSums(), step.backbone.trainable(), step.total
    for k in range(len(samples.prompts) // size):
        # One surrogate for all batches.
        names = ("prompts", "plan", f"noise {k}", f"copies {k}")
        _forget(parameters)
        streams = Streams(*(_stream(seed, draw, name) for name in names))
        step(samples.prompts[k * size : (k + 1) * size], streams)
        gradient = {
            name: torch.zeros_like(p) if p.grad is None else -p.grad.detach()
            for name, p in parameters.items()
        }
        _forget(parameters)
        if not math.isfinite(norm(gradient)):
            raise GradientError(f"the gradient of batch {k} of draw {draw} is not finite")
        sums.add(gradient)
    return sums


def _forget(parameters: Mapping[str, nn.Parameter]) -> None:
    for parameter in parameters.values():
        parameter.grad = None


@contextmanager
def moved(
    parameters: Mapping[str, nn.Parameter], direction: Gradient, length: float
) -> Iterator[None]:
    """Move parameters along a direction, by a length in all; put them back bit for bit."""
    kept = {name: p.detach().clone() for name, p in parameters.items()}
    size = norm(direction)
    try:
        with torch.no_grad():
            for name, parameter in parameters.items():
                # A method without gradient does not move.
                parameter.add_(direction[name], alpha=length / size if size else 0.0)
        yield
    finally:
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(kept[name])


def resized(step: TrainingStep, samples: int) -> TrainingStep:
    """The same step with batches of another size."""
    pull, decode = (
        size if size == "auto" else min(size, samples)
        for size in (step.batching.pull, step.batching.decode)
    )
    portion = min(step.batching.samples, samples)
    whole, rest = divmod(samples, portion)
    if rest:
        raise ValueError(
            f"`batch` must be a multiple of batching.samples, {step.batching.samples}, or less, "
            f"got {samples}"
        )
    return attrs.evolve(step, batching=Batching(portion, whole, pull=pull, decode=decode))
