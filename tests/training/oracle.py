"""The training gradient written down as one autograd graph, as slowly and plainly as possible."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import torch
from torch import Tensor

from flowbp.core import DRaFT, Surrogate
from flowbp.training import Streams, TrainingStep

from .fakes import Network, code


@attrs.frozen(eq=False)
class Expected:
    """The loss, the anchor's value if the step has one, and the gradients of both together."""

    loss: Tensor
    anchor: Tensor | None
    gradients: dict[str, Tensor]


def joint_gradient(
    step: TrainingStep,
    prompts: Sequence[str],
    streams: Streams,
    reference: Network | None = None,
) -> Expected:
    """What `step(prompts, streams)` must find; `reference` is the network of its anchor."""
    surrogate = step.method.draw(step.sigmas, streams.surrogate)
    size = {"height": step.sampling.height, "width": step.sampling.width}
    x = step.backbone.noise(len(prompts), generator=streams.noise, **size)
    codes = torch.stack([code(prompt) for prompt in prompts])
    sigmas, path, cached, seen = step.sigmas, [x], [], list[int]()
    exact = {i for segment in surrogate.segments for i in segment.active}
    if surrogate.reward_input == "posterior_mean":
        exact |= set(surrogate.segments[-1].weights)
    with torch.no_grad():
        for i in range(step.sampling.steps):
            if i > 1 and i not in exact and i - seen[-1] < step.sampling.velocity_every:
                k, m = seen[-2:]
                slope = (cached[m] - cached[k]) / (sigmas[m] - sigmas[k])
                cached.append(cached[m] + (sigmas[i] - sigmas[m]) * slope)
            else:
                cached.append(_velocity(step, path[i], codes, i))
                seen.append(i)
            path.append(path[i] + (sigmas[i + 1] - sigmas[i]) * cached[i])
        for _ in range(surrogate.noised):
            i, sigma = step.sampling.steps - 1, sigmas[-2]
            end, first = path[-1][: len(prompts)], slice(0, len(prompts))
            eps = torch.randn(end.shape, generator=streams.copies, dtype=end.dtype)
            start = (1 - sigma) * end + sigma * eps
            v = _velocity(step, start, codes[first], i)
            path[i], cached[i] = torch.cat([path[i], start]), torch.cat([cached[i], v])
            path[i + 1] = torch.cat([path[i + 1], start - sigma * v])
            codes = torch.cat([codes, codes[first]])
    build = _chain if isinstance(step.method, DRaFT) else _surrogate
    read = build(step, surrogate, path, cached, codes)
    members = list(prompts) * (1 + surrogate.noised)
    rewards = step.reward(step.backbone.decode(read), members)
    loss = (_weights(surrogate, path, cached) * step.shape(rewards)).sum() / len(members)
    names, parameters = zip(*step.backbone.trainable().items(), strict=True)
    anchor = None if reference is None else _anchor(step, surrogate, reference, path, codes)
    found = torch.autograd.grad(loss if anchor is None else loss + anchor, parameters)
    return Expected(
        loss.detach(),
        None if anchor is None else anchor.detach(),
        dict(zip(names, found, strict=True)),
    )


def _anchor(
    step, surrogate: Surrogate, reference: Network, path: list[Tensor], codes: Tensor
) -> Tensor:
    gaps = [
        _velocity(step, path[i], codes, i)
        - _velocity(step, path[i], codes, i, network=reference).detach()
        for i in sorted({i for segment in surrogate.segments for i in segment.active})
    ]
    return step.anchor.strength * torch.stack(gaps).square().mean()


def _velocity(
    step: TrainingStep, x: Tensor, codes: Tensor, i: int, network: Network | None = None
) -> Tensor:
    network, sampling = network or step.backbone.module, step.sampling
    positive = network(x, codes, step.sigmas[i])
    if sampling.guidance == 1:
        return positive
    empty = code(sampling.negative_prompt).expand(len(x), -1)
    negative = network(x, empty, step.sigmas[i])
    negative = negative.detach() if sampling.detach_negative else negative
    return negative + sampling.guidance * (positive - negative)


def _chain(step, surrogate: Surrogate, path: list[Tensor], cached: list[Tensor], codes: Tensor):
    first = surrogate.segments[0].start
    x = path[first]
    for i in range(first, surrogate.horizon):
        x = x + (step.sigmas[i + 1] - step.sigmas[i]) * _velocity(step, x, codes, i)
    return x


def _surrogate(step, surrogate: Surrogate, path: list[Tensor], cached: list[Tensor], codes: Tensor):
    x = path[surrogate.segments[0].start]
    for number, segment in enumerate(surrogate.segments):
        prediction = x
        for i, w in segment.weights.items():
            v = cached[i]
            if i in segment.active:
                joint = number > 0 and i == segment.start
                at = surrogate.alpha * x + (1 - surrogate.alpha) * x.detach() if joint else path[i]
                fresh = _velocity(step, at, codes, i)
                v = v + segment.active[i] * (fresh - fresh.detach())
            prediction = prediction + w * v
        x = prediction + (path[segment.stop] - prediction).detach()
    return x if surrogate.reward_input == "sample" else prediction


def _weights(surrogate: Surrogate, path: list[Tensor], cached: list[Tensor]) -> Tensor:
    if surrogate.residual_floor is None:
        return torch.ones(len(path[-1]), dtype=torch.float64)
    total = torch.zeros(len(path[-1]), dtype=torch.float64)
    for segment in surrogate.segments:
        if segment.stop <= surrogate.horizon:
            landed = path[segment.start] + sum(w * cached[i] for i, w in segment.weights.items())
            gap = (landed - path[segment.stop]).abs().flatten(1).mean(1)
            total += gap.clamp(min=surrogate.residual_floor)
    return 1 / total
