"""Classifier-free guidance as a linear operator, with its own pullback."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .pulls import Cotangents, Pull, Pulled, add_gradients
from .trajectory import VelocityField

Rescale = Callable[[Tensor, Tensor], Tensor]
"""From the guided velocity (B, …) and `v⁺`, the velocity that a model is sampled with."""


def guided_velocity(
    positive: VelocityField,
    negative: VelocityField,
    scale: float,
    *,
    rescale: Rescale | None = None,
) -> VelocityField:
    """The guided field `v = v⁻ + s (v⁺ - v⁻)`.

    Args:
        positive: the field under the prompt.
        negative: the field under the empty or negative prompt; not called if `scale` is 1.
        scale: s; 1 is no guidance.
        rescale: what a model's own sampler does with v afterwards; not called if `scale` is 1.
            The field is no longer linear in its branches then, so `guided_pull` does not apply:
            pull the field itself.

    Raises:
        ValueError: `scale` is not finite.

    Example:
        >>> import torch
        >>> field = guided_velocity(lambda x, sigma: 2 * x, lambda x, sigma: x, 3.0)
        >>> field(torch.ones(1), torch.tensor(1.0))
        tensor([4.])

    Reference: Ho and Salimans, "Classifier-Free Diffusion Guidance", arXiv 2207.12598.
    """
    _check(scale)
    if scale == 1:
        return positive

    def velocity(latents: Tensor, sigma: Tensor, /) -> Tensor:
        v_negative = negative(latents, sigma)
        v_positive = positive(latents, sigma)
        v = v_negative + scale * (v_positive - v_negative)
        return v if rescale is None else rescale(v, v_positive)

    return velocity


def batched_guided_velocity(
    both: VelocityField, scale: float, *, rescale: Rescale | None = None
) -> VelocityField:
    """The guided field of `guided_velocity`, both branches evaluated as one batch.

    One large call keeps a device busier than two small ones. Scale and errors are
    `guided_velocity`'s.

    Args:
        both: the field of 2B samples, B under the prompts, then B under the negative prompt.
        scale: s.
        rescale: as for `guided_velocity`.

    Returns:
        A field of B samples.

    Example:
        >>> import torch
        >>> factors = torch.tensor([[2.0], [1.0]])
        >>> field = batched_guided_velocity(lambda x, sigma: factors * x, 3.0)
        >>> field(torch.ones(1, 1), torch.tensor(1.0))
        tensor([[4.]])

    Reference: Ho and Salimans, "Classifier-Free Diffusion Guidance", arXiv 2207.12598.
    """
    _check(scale)

    def velocity(latents: Tensor, sigma: Tensor, /) -> Tensor:
        v_positive, v_negative = both(torch.cat([latents, latents]), sigma).chunk(2)
        v = v_negative + scale * (v_positive - v_negative)
        return v if rescale is None else rescale(v, v_positive)

    return velocity


def guided_pull(positive: Pull, negative: Pull | None, scale: float) -> Pull:
    """The pullback of the guided field: cotangents `s c` and `(1 - s) c`, one graph at a time.

    Args:
        positive: the pull under the prompt.
        negative: the pull under the negative prompt; None detaches that branch, which is then
            not evaluated at all in the backward pass.
        scale: s; with 1 the negative branch has no gradient and is not evaluated either.

    Raises:
        ValueError: `scale` is not finite.

    Example:
        >>> import torch
        >>> from flowbp.core import Cotangents, functional_pull
        >>> params = {"a": torch.tensor(1.0)}
        >>> positive = functional_pull(lambda p, x, sigma: p["a"] * x, params)
        >>> x, pull = torch.ones(1, 1), guided_pull(positive, None, 3.0)
        >>> pull(x, torch.tensor(1.0), Cotangents(x, through_latents=False))
        Pulled(gradients={'a': tensor(3.)}, latents=None)

    Reference: arXiv 2606.11075, section 3; arXiv 2207.12598.
    """
    _check(scale)

    def pull(latents: Tensor, sigma: Tensor, cotangents: Cotangents, /) -> Pulled:
        wanted = positive(latents, sigma, cotangents.scaled(scale))
        if negative is None or scale == 1:
            return wanted
        other = negative(latents, sigma, cotangents.scaled(1 - scale))
        u = wanted.latents
        if u is not None and other.latents is not None:
            u = u + other.latents
        return Pulled(add_gradients(wanted.gradients, other.gradients), u)

    return pull


def _check(scale: float) -> None:
    if not math.isfinite(scale):
        raise ValueError(f"`scale` must be a finite number, got {scale}; 1 is no guidance")
