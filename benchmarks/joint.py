"""The step as it is usually written: one graph of every active velocity, decoder and reward."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from flowbp.adapters import Backbone, Conditioning
from flowbp.adapters.guided import guided_field
from flowbp.core import guided_velocity, rollout
from flowbp.core.trajectory import VelocityField
from flowbp.testing.oracle import joint_read
from flowbp.training import Streams, TrainingStep


def joint_step(step: TrainingStep, prompts: Sequence[str], streams: Streams) -> None:
    """Add the same gradient to the parameters as `step` does, by one backward pass.

    The negative branch is evaluated again for every active velocity, without a graph; all
    pictures are decoded and scored at once, by a decoder that is not compiled.

    Args:
        step: Whose model, method, reward and loss are used; its portions are not.
        prompts: of the batch.
        streams: the generators, used in the step's order.
    """
    backbone, sampling = step.backbone, step.sampling
    plan = step.method.draw(step.sigmas, streams.plan)
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
        with torch.compiler.set_stance("force_eager"):
            images = backbone.decode(x)
        loss = step.shape(step.reward(images, list(prompts))).mean()
        loss.backward()


def _without_gradient(backbone: Backbone, conditioning: Conditioning) -> VelocityField:
    field = backbone.velocity(conditioning)

    @torch.no_grad()
    def velocity(latents: Tensor, sigma: Tensor, /) -> Tensor:
        return field(latents, sigma)

    return velocity
