"""What a plan costs in network evaluations, known before anything runs."""

from __future__ import annotations

import attrs

from flowbp.core import Plan
from flowbp.training.sampling import Sampling


@attrs.frozen
class Cost:
    """Network evaluations of one optimizer step, counted for each sample of the batch.

    Args:
        forward: without gradient, in the rollout, for renoised copies and for an anchor.
        backward: with gradient; each is a forward and a backward pass. The second backward pass
            over a graph that an anchor asks for where the reward's gradient passes on through the
            latents is not counted: at a bridged joint, and in `DRaFT` at every step but the first
            kept, in each pulled branch. It is a pass to the latents alone; with gradient
            checkpointing it recomputes the graph's forward pass once more.
        pictures: decoded and scored.
    """

    forward: int
    backward: int
    pictures: int

    @property
    def velocity_calls(self) -> int:
        """All evaluations of the network."""
        return self.forward + self.backward


def cost(plan: Plan, sampling: Sampling, *, anchored: bool = False) -> Cost:
    """Count the evaluations that a plan needs, for each sample of the batch.

    Guidance doubles the forward ones; the backward ones only if the negative branch is not
    detached. Renoised copies are samples of their own. A reference anchor is one more forward
    velocity for each active step, which guidance doubles too.

    Args:
        plan: a surrogate or chain.
        sampling: the guidance it runs under.
        anchored: whether there is an anchor.

    Returns:
        The counts.

    Example:
        >>> import torch
        >>> from flowbp.core import Bridge
        >>> plan = Bridge(active=5).draw(torch.linspace(1, 0, 26), torch.Generator())
        >>> cost(plan, Sampling(steps=25, guidance=3.5, height=512, width=512))
        Cost(forward=50, backward=5, pictures=1)
        >>> unguided = Sampling(steps=25, guidance=1, height=512, width=512)
        >>> cost(plan, unguided, anchored=True)
        Cost(forward=30, backward=5, pictures=1)

    Reference: arXiv 2606.11075, section 3.
    """
    active = len({i for segment in plan.segments for i in segment.active})
    members = 1 + plan.noised
    reference = active * members if anchored else 0
    return Cost(
        forward=(plan.horizon + plan.noised + reference) * sampling.branches,
        backward=active * members * sampling.pulled_branches,
        pictures=members,
    )
