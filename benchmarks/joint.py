"""The step as it is usually written: one graph of every active velocity, decoder and reward."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import Tensor

from flowbp.adapters import Backbone, Conditioning, LatentDecoder
from flowbp.adapters.guided import guided_field
from flowbp.core import guided_velocity, rollout
from flowbp.core.trajectory import VelocityField
from flowbp.testing.oracle import joint_read
from flowbp.training import Streams, TrainingStep


def joint_step(step: TrainingStep, prompts: Sequence[str], streams: Streams) -> None:
    """Add the same gradient to the parameters as `step` does, by one backward pass.

    Both branches are sampled in one call, as diffusers' pipelines do. The negative branch is
    evaluated again for every active velocity, without a graph; all pictures are decoded and scored
    at once.

    Args:
        step: Whose model, method, reward and loss are used; its portions are not.
        prompts: of the batch.
        streams: the generators, used in the step's order.

    Raises:
        ValueError: the negative branch is not detached, or the plan has renoised copies or weighs
            samples by residuals, none of which is written here.
    """
    backbone: Any = step.backbone
    sampling = step.sampling
    plan = step.method.draw(step.sigmas, streams.plan)
    if plan.noised or plan.residual_floor is not None or not sampling.detach_negative:
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
    field = guided_field(backbone.velocity, conditioning, negative, sampling.guidance)
    trajectory = rollout(field, noise, step.sigmas, stop=plan.horizon)
    positive = backbone.velocity(conditioning)
    opposite = _without_gradient(backbone, negative.repeat(len(prompts)))
    with torch.enable_grad():
        x = joint_read(guided_velocity(positive, opposite, sampling.guidance), trajectory, plan)
        images = plain_decode(backbone.decoder, x)
        loss = step.shape(step.reward(images, list(prompts))).mean()
        loss.backward()


def plain_decode(decoder: LatentDecoder, latents: Tensor) -> Tensor:
    """Decode as one writes it with diffusers: all at once, its own attention, nothing compiled.

    Args:
        decoder: Whose VAE, scaling and dtypes are used, and nothing else.
        latents: (B, C, h, w) of the sampler.

    Returns:
        Images (B, 3, H, W) in [0, 1].
    """
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
