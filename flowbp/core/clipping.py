"""Clipping of single samples' cotangents."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import torch
from torch import Tensor

from flowbp.validators import real


@attrs.frozen
class SampleClip:
    """Shortens the cotangents of single samples to a multiple of the batch's median norm.

    `g_b · min(1, factor · median / |g_b|)`. The median is over the samples whose cotangent is not
    zero, so that those that a hinge has let go do not count.

    The norms of a reward's gradient, and of what Jacobians make of it, have long tails: a sampler
    that must decide between two pictures turns a small change of the noise into another picture,
    and near such a decision its derivative is very large. Then a few samples are nearly all of a
    batch's gradient, and another batch's gradient points elsewhere. Clipped, no cotangent is
    longer than that of the median sample; shorter ones stay. The gradient is then biased: its
    expectation is not that of the surrogate's.

    The median is the lower one of an even number, so that a batch needs several samples. A batch
    of one is left as it is.

    Args:
        factor: above 0; how many times the median a norm may be.

    Raises:
        ValueError: a factor that is not above 0.

    Example:
        >>> cotangents = torch.tensor([[3.0, 4.0], [0.0, 1.0], [0.0, 2.0], [0.0, 0.0]])
        >>> SampleClip(1.0)(cotangents).norm(dim=1)
        tensor([2., 1., 2., 0.])

    Reference: Gorbunov et al., "Stochastic optimization with heavy-tailed noise via accelerated
    gradient clipping", arXiv 2005.10785, on clipping where single gradients have long tails.
    """

    factor: float = attrs.field(default=1.0, validator=real(0, above=True))

    def __call__(
        self, cotangents: Tensor, /, *, among: Callable[[Tensor], Tensor] | None = None
    ) -> Tensor:
        """The cotangents (B, …), none longer than that.

        Where they are a part of a batch, `among` gives for their norms, (B,), those of all of it.
        """
        wide = torch.promote_types(cotangents.dtype, torch.float32)
        rows = cotangents.flatten(1).to(wide)
        # Divided by each sample's largest element, squares neither overflow nor vanish.
        largest = rows.abs().amax(dim=1, keepdim=True)
        scaled = rows / torch.where(largest > 0, largest, 1.0)
        lengths = scaled.norm(dim=1, keepdim=True)
        norms = largest * lengths
        every = norms.flatten() if among is None else among(norms.flatten())
        limit = self.factor * torch.where(every > 0, every, torch.nan).nanmedian()
        clipped = torch.where(norms > limit, limit * scaled / lengths, rows)
        return clipped.view_as(cotangents).to(cotangents.dtype)
