"""A batch pulled in pieces, so that one piece's graph is alive at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from .pull import Pull, Pulled, add_gradients


def in_micro_batches(pull_of: Callable[[slice], Pull], size: int) -> Pull:
    """Pull a batch in pieces of at most `size` samples, one live graph of a piece at a time.

    Args:
        pull_of: the pull of a slice of samples, with that slice's conditioning.
        size: samples at a time, at least 1.

    Returns:
        A pull of the whole batch with the same result.

    Raises:
        ValueError: `size` is below 1.

    Example:
        >>> from flowbp.core import functional_pull
        >>> scale = torch.tensor([[1.0], [2.0], [3.0]])
        >>> params = {"a": torch.tensor(1.0)}
        >>> def pull_of(samples):
        ...     return functional_pull(lambda p, x, sigma: p["a"] * scale[samples] * x, params)
        >>> x = torch.ones(3, 1)
        >>> in_micro_batches(pull_of, 2)(x, torch.tensor(1.0), x, through_latents=False)
        Pulled(gradients={'a': tensor(6.)}, latents=None)

    Reference: arXiv 2606.11075, section 3.
    """
    if size < 1:
        raise ValueError(f"`size` must be >= 1 samples, got {size}")

    def pull(
        latents: Tensor,
        sigma: Tensor,
        cotangent: Tensor,
        /,
        *,
        through_latents: bool,
        further: Tensor | None = None,
    ) -> Pulled:
        gradients: Mapping[str, Tensor] = {}
        pieces: list[Tensor] = []
        for first in range(0, latents.shape[0], size):
            samples = slice(first, min(first + size, latents.shape[0]))
            pulled = pull_of(samples)(
                latents[samples],
                sigma,
                cotangent[samples],
                through_latents=through_latents,
                further=None if further is None else further[samples],
            )
            gradients = add_gradients(gradients, pulled.gradients)
            if pulled.latents is not None:
                pieces.append(pulled.latents)
        return Pulled(gradients, torch.cat(pieces) if pieces else None)

    return pull
