"""What a plan costs in network evaluations, known before anything runs."""

from __future__ import annotations

import attrs

from flowbp.core import Plan
from flowbp.training.sampling import Sampling


@attrs.frozen
class Cost:
    """Network evaluations of one optimizer step, counted for each sample of the batch.

    Args:
        forward: without gradient, in the rollout and for renoised copies.
        backward: with gradient; each is a forward and a backward pass.
        pictures: decoded and scored.
    """

    forward: int
    backward: int
    pictures: int

    @property
    def velocity_calls(self) -> int:
        """All evaluations of the network."""
        return self.forward + self.backward


def cost(plan: Plan, sampling: Sampling) -> Cost:
    """Count the evaluations that a plan needs, for each sample of the batch.

    Guidance doubles the forward ones; the backward ones only if the negative branch is not
    detached. Renoised copies are samples of their own.

    Args:
        plan: a surrogate or chain.
        sampling: the guidance it runs under.

    Returns:
        The counts.

    Example:
        >>> import torch
        >>> from flowbp.core import Bridge
        >>> plan = Bridge(active=5).draw(torch.linspace(1, 0, 26), torch.Generator())
        >>> cost(plan, Sampling(steps=25, guidance=3.5, height=512, width=512))
        Cost(forward=50, backward=5, pictures=1)

    Reference: arXiv 2606.11075, section 3.
    """
    active = sum(len(segment.active) for segment in plan.segments)
    members = 1 + plan.noised
    return Cost(
        forward=(plan.horizon + plan.noised) * sampling.branches,
        backward=active * members * sampling.pulled_branches,
        pictures=members,
    )
