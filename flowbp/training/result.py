"""What one training step measured."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
from torch import Tensor

from flowbp.core import Plan
from flowbp.training.cost import Cost
from flowbp.training.cotangent import Scores


@attrs.frozen(eq=False)
class StepResult:
    """What one step measured; the gradients are in the parameters' `.grad`.

    M is the number of members, `B (1 + plan.noised)`: the B samples, then their renoised copies.

    Args:
        plan: what the method drew.
        prompts: the prompt of each member.
        latents: what the reward scored, (M, …).
        scores: rewards (M,), weighted losses (M,), cotangent (M, …), and the reward's parts (M,).
        residuals: (B,) for each segment of the plan; `nan` where none is defined.
        cost: network evaluations.
        anchor: the value of the reference anchor, 0-d; None without one.
    """

    plan: Plan
    prompts: tuple[str, ...]
    latents: Tensor
    scores: Scores
    residuals: tuple[Tensor, ...]
    cost: Cost
    anchor: Tensor | None = None

    @property
    def loss(self) -> Tensor:
        """The mean of the losses, 0-d; the gradients are its, and the anchor's where there is one.

        The anchor's value is not in it.
        """
        return self.scores.losses.mean()

    @property
    def rewards(self) -> Tensor:
        """The rewards of the samples without their copies, (B,)."""
        return self.scores.rewards[: self._samples]

    @property
    def parts(self) -> Mapping[str, Tensor]:
        """What a composed reward tells of the samples without their copies, (B,) each."""
        return {name: figures[: self._samples] for name, figures in self.scores.parts.items()}

    @property
    def _samples(self) -> int:
        return len(self.prompts) // (1 + self.plan.noised)
