"""The step without the library: one graph of every active velocity, decoder and reward.

The graph is built after sampling, as it is usually written, or while sampling.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import attrs
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from flowbp.adapters import Backbone, Conditioning, LatentDecoder, rescale_of
from flowbp.adapters.backbone import guided_field
from flowbp.core import Surrogate, guided_velocity, rollout
from flowbp.core.trajectory import VelocityField
from flowbp.testing.oracle import joint_read
from flowbp.training import Streams, TrainingStep


@attrs.frozen
class Fields:
    """The guided field of some prompts, with a graph and without."""

    # Without one, both branches in one call, as diffusers' pipelines do.
    sampled: VelocityField
    # With a graph of v⁺; v⁻ is evaluated by a call of its own, without one.
    active: VelocityField


Read = Callable[[Fields, Tensor, Tensor, Surrogate], Tensor]
"""From fields, noise, sigmas and a surrogate to what the reward reads, with its graph."""

Decode = Callable[[LatentDecoder, Tensor], Tensor]
"""From a decoder and latents to pictures."""


def after_sampling(fields: Fields, noise: Tensor, sigmas: Tensor, surrogate: Surrogate) -> Tensor:
    """Sample all steps without a graph, then evaluate the active velocities again with one.

    A sample takes 2N calls and then 2K: v⁺ with a graph, and v⁻, which was known. 60 for N = 25 and
    K = 5.
    """
    trajectory = rollout(fields.sampled, noise, sigmas, stop=surrogate.horizon)
    return joint_read(fields.active, trajectory, surrogate)


def while_sampling(fields: Fields, noise: Tensor, sigmas: Tensor, surrogate: Surrogate) -> Tensor:
    """Sample with a graph where a step is active, and without one elsewhere: nothing twice.

    A sample takes 2N calls: v⁺ and v⁻ of every step, K of the v⁺ with a graph. 50 for N = 25,
    whatever K. The surrogate's path x̂ grows with the steps; at a joint it is pinned to the latents,
    and the step's velocity is that of `alpha x_j + (1 - alpha) sg(x_j)`.
    """
    levels: list[float] = sigmas.double().tolist()
    weights = {i: w for segment in surrogate.segments for i, w in segment.weights.items()}
    gammas = {i: gamma for segment in surrogate.segments for i, gamma in segment.active.items()}
    first, *joints = (segment.start for segment in surrogate.segments)
    x = path = noise
    for i in range(surrogate.horizon):
        x_i = x
        if i == first:
            path = x
        elif i in joints:
            path = _pinned(path, x)
            x_i = surrogate.alpha * path + (1 - surrogate.alpha) * x
        if i in gammas:
            v_i = fields.active(x_i, sigmas[i]).to(x.dtype)
        else:
            with torch.no_grad():
                v_i = fields.sampled(x, sigmas[i]).to(x.dtype)
        if i in weights:
            gamma = gammas.get(i, 1.0)
            path = path + weights[i] * (gamma * v_i + (1 - gamma) * v_i.detach())
        x = x + (levels[i + 1] - levels[i]) * v_i.detach()
    return path if surrogate.reward_input == "posterior_mean" else _pinned(path, x)


def _pinned(path: Tensor, latents: Tensor) -> Tensor:
    return path + (latents - path).detach()


def plain_decode(decoder: LatentDecoder, latents: Tensor) -> Tensor:
    """Decode as one writes it with diffusers: all at once, its own attention, nothing compiled."""
    policy, vae = decoder.policy, decoder.vae
    z = decoder.unscale(vae, latents.to(policy.state))
    with (
        policy.autocast(decoder.device),
        torch.compiler.set_stance("force_eager"),
        _attention_of_diffusers(vae),
    ):
        decoded = vae.decode(z.to(policy.weights), return_dict=False)[0]
    images: Tensor = (decoded.to(policy.state) / 2 + 0.5).clamp(0, 1)
    return images


def joint_step(
    step: TrainingStep,
    prompts: Sequence[str],
    streams: Streams,
    *,
    read: Read = after_sampling,
    portion: int,
    decode: Decode = plain_decode,
) -> None:
    """Add the same gradient to the parameters as `step` does, by one backward pass.

    The velocities of all active steps are one graph with all pictures, which are scored at once.
    `portion` pictures are decoded at a time, checkpointed where these are not all. Refused are a
    negative branch that is not detached, and a surrogate with noised copies, supports before their
    segment, or residuals: none of these is written here.
    """
    backbone: Any = step.backbone
    sampling = step.sampling
    surrogate = step.method.draw(step.sigmas, streams.surrogate)
    extrapolated = any(min(segment.weights) < segment.start for segment in surrogate.segments)
    plain = not (surrogate.noised or extrapolated or surrogate.residual_floor is not None)
    if not plain or not sampling.detach_negative:
        raise ValueError(
            "`step` must have a plain loss and a detached negative branch for the joint graph, "
            f"got {step.method} with detach_negative={sampling.detach_negative}; take Bridge or "
            "Sparse"
        )
    conditioning = backbone.encode(list(prompts))
    negative = backbone.encode([sampling.negative_prompt])
    noise = backbone.noise(
        len(prompts), height=sampling.height, width=sampling.width, generator=streams.noise
    ).to(backbone.device)
    positive = backbone.velocity(conditioning)
    opposite = _without_gradient(backbone, negative.repeat(len(prompts)))
    rescale = rescale_of(backbone)
    fields = Fields(
        sampled=guided_field(
            backbone.velocity, conditioning, negative, sampling.guidance, rescale=rescale
        ),
        active=guided_velocity(positive, opposite, sampling.guidance, rescale=rescale),
    )
    with torch.enable_grad():
        x = read(fields, noise, step.sigmas, surrogate)
        images = _decoded(partial(decode, backbone.decoder), x, portion)
        loss = step.shape(step.reward(images, list(prompts))).mean()
        torch.autograd.backward(loss)


def _decoded(decode: Callable[[Tensor], Tensor], latents: Tensor, portion: int) -> Tensor:
    if portion >= len(latents):
        return decode(latents)
    parts = torch.split(latents, portion)
    return torch.cat([checkpoint(decode, part, use_reentrant=False) for part in parts])


@contextmanager
def _attention_of_diffusers(vae: Any) -> Iterator[None]:
    parts = [part for part in vae.decoder.modules() if isinstance(part, Attention)]
    ours = [part.processor for part in parts]
    for part in parts:
        part.set_processor(AttnProcessor2_0())
    try:
        yield
    finally:
        for part, processor in zip(parts, ours, strict=True):
            part.set_processor(processor)


def _without_gradient(backbone: Backbone, conditioning: Conditioning) -> VelocityField:
    field = backbone.velocity(conditioning)

    @torch.no_grad()
    def velocity(latents: Tensor, sigma: Tensor, /) -> Tensor:
        return field(latents, sigma)

    return velocity
