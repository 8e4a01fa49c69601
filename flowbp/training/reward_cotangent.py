"""The gradient of the loss at the latents: decode, score and shape a few samples at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs
import torch
from torch import Tensor

from flowbp.adapters.backbone import Backbone
from flowbp.component_errors import calling, shown, wrong
from flowbp.core import LossShape
from flowbp.rewards.reward import Reward, in_parts
from flowbp.training.sampling import portion_slices


@attrs.frozen(kw_only=True, eq=False)
class Scorer:
    """Everything between latents and loss: `L = sum of w shape(reward(decode(x))) / B`."""

    backbone: Backbone
    reward: Reward
    shape: LossShape
    size: int


@attrs.frozen(eq=False)
class Scores:
    """What scoring leaves behind; nothing in it carries a gradient."""

    rewards: Tensor
    losses: Tensor
    cotangent: Tensor
    parts: Mapping[str, Tensor] = attrs.field(factory=dict)


def score(scorer: Scorer, latents: Tensor, prompts: Sequence[str], weights: Tensor) -> Scores:
    """Score latents and give the loss's cotangent at them, a few samples at a time."""
    total = len(latents)
    scored = [
        _score(scorer, latents[part], prompts[part], weights[part] / total)
        for part in portion_slices(total, scorer.size)
    ]
    return Scores(
        torch.cat([each.rewards for each in scored]),
        torch.cat([each.losses for each in scored]) * total,
        torch.cat([each.cotangent for each in scored]),
        {name: torch.cat([each.parts[name] for each in scored]) for name in scored[0].parts},
    )


@torch.enable_grad()
def _score(scorer: Scorer, latents: Tensor, prompts: Sequence[str], weights: Tensor) -> Scores:
    x = latents.detach().requires_grad_()
    images, texts = scorer.backbone.decode(x), list(prompts)
    found = in_parts(scorer.reward, images, texts)
    rewards = found.scores
    with calling("loss shape", scorer.shape):
        shaped = scorer.shape(rewards)
    if not isinstance(shaped, Tensor) or shaped.shape != rewards.shape:
        must = f"must return one loss per score, shape {tuple(rewards.shape)}"
        raise wrong("loss shape", scorer.shape, f"{must}, got {shown(shaped)}")
    losses = weights * shaped
    # Code of others may have a backward pass of its own, or change in place what that needs.
    with calling("gradient of the reward", scorer.reward, texts):
        (cotangent,) = torch.autograd.grad(losses.sum(), x)
    parts = {name: values.detach() for name, values in found.parts.items()}
    return Scores(rewards.detach(), losses.detach(), cotangent, parts)
