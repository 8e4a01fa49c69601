"""Loss shapes: how a reward becomes a loss, per sample."""

from __future__ import annotations

from typing import Protocol

import attrs
from torch import Tensor

from flowbp.validators import real


class LossShape(Protocol):
    """`losses = shape(rewards)`, both (B,), differentiable.

    Example:
        >>> import torch
        >>> def squared(rewards):
        ...     return (1 - rewards).square()
        >>> squared(torch.tensor([0.5, 1.0]))
        tensor([0.2500, 0.0000])
    """

    def __call__(self, rewards: Tensor, /) -> Tensor:
        """The loss of each sample, (B,), from its reward, (B,)."""
        ...


@attrs.frozen
class Hinge:
    """`relu(target - r)`: no gradient for samples that already score `target`.

    Args:
        target: the score to reach, in the reward's own units; 0.55 for the HPSv2.1 cosine.

    Example:
        >>> import torch
        >>> Hinge(0.5)(torch.tensor([0.25, 0.75]))
        tensor([0.2500, 0.0000])

    Reference: Xu et al., "ImageReward", arXiv 2304.05977, section 4.
    """

    target: float = attrs.field(validator=real(float("-inf")))

    def __call__(self, rewards: Tensor, /) -> Tensor:
        return (self.target - rewards).relu()


@attrs.frozen
class Linear:
    """`-r`: every sample is pushed equally, without end.

    Example:
        >>> import torch
        >>> Linear()(torch.tensor([0.25]))
        tensor([-0.2500])

    Reference: Clark et al., arXiv 2309.17400, section 4.
    """

    def __call__(self, rewards: Tensor, /) -> Tensor:
        return -rewards


@attrs.frozen
class Target:
    """`|r - value|`: pulled towards a score from both sides.

    Args:
        value: the score to meet, in the reward's own units.

    Example:
        >>> import torch
        >>> Target(0.5)(torch.tensor([0.25, 0.75]))
        tensor([0.2500, 0.2500])

    Reference: Prabhudesai et al., "AlignProp", arXiv 2310.03739.
    """

    value: float = attrs.field(validator=real(float("-inf")))

    def __call__(self, rewards: Tensor, /) -> Tensor:
        return (rewards - self.value).abs()
