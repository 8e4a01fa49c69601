"""The reward's cotangent: decode, score, shape the loss, and go back to the latents only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs
import torch
from torch import Tensor

from flowbp.adapters.backbone import Backbone
from flowbp.components import calling, shown, wrong
from flowbp.core import LossShape
from flowbp.rewards.figures import in_parts
from flowbp.rewards.reward import Reward
from flowbp.training.portions import portions


@attrs.frozen(kw_only=True, eq=False)
class Scorer:
    """Everything between latents and loss: `L = sum of w shape(reward(decode(x))) / B`.

    Args:
        backbone: decodes.
        reward: scores the pictures.
        shape: makes a loss of each score.
        size: samples decoded and scored at a time; their graph is freed before the next.
    """

    backbone: Backbone
    reward: Reward
    shape: LossShape
    size: int


@attrs.frozen(eq=False)
class Scores:
    """What scoring leaves behind; nothing in it carries a gradient.

    Args:
        rewards: (B,).
        losses: (B,), each with its weight; their mean is the loss.
        cotangent: `dL/dx`, (B, …) like the latents.
        parts: what a composed reward tells of its parts, (B,) each.
    """

    rewards: Tensor
    losses: Tensor
    cotangent: Tensor
    parts: Mapping[str, Tensor] = attrs.field(factory=dict)


def score(scorer: Scorer, latents: Tensor, prompts: Sequence[str], weights: Tensor) -> Scores:
    """Score latents and give the loss's cotangent at them, a few samples at a time.

    The loss is the mean over all B samples, however they are portioned.

    Args:
        scorer: decoder, reward and loss shape.
        latents: (B, …), what the reward must score.
        prompts: B prompts.
        weights: (B,), the weight of each sample's loss.

    Returns:
        Rewards, losses and the cotangent.

    Raises:
        ComponentError: the reward raised something or returned no differentiable score for each
            picture, or the loss shape no loss for each score.

    Example:
        >>> from types import SimpleNamespace
        >>> from flowbp.core import Linear
        >>> brightness = lambda images, prompts: images.flatten(1).mean(1)
        >>> toy = SimpleNamespace(decode=lambda x: x)
        >>> scorer = Scorer(backbone=toy, reward=brightness, shape=Linear(), size=1)
        >>> score(scorer, torch.zeros(2, 1, 1, 2), ["a", "b"], torch.ones(2)).cotangent.flatten()
        tensor([-0.2500, -0.2500, -0.2500, -0.2500])

    Reference: arXiv 2606.11075, section 3.
    """
    total = len(latents)
    scored = [
        _score(scorer, latents[part], prompts[part], weights[part] / total)
        for part in portions(total, scorer.size)
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
    parts = {name: figures.detach() for name, figures in found.parts.items()}
    return Scores(rewards.detach(), losses.detach(), cotangent, parts)
