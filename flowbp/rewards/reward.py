"""What the library asks of a reward, and calling any reward under those rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import attrs
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from flowbp.component_errors import calling, shown, wrong
from flowbp.limits import BATCH
from flowbp.validators import integer

batch_size = attrs.validators.optional(integer(1, BATCH))
"""A validator: pictures in a model at a time, or None for all of them."""


class Reward(Protocol):
    """Scores pictures against prompts; higher is better. Differentiable in the pictures.

    Example:
        >>> import torch
        >>> def brightness(images, prompts):
        ...     return images.mean((1, 2, 3))
        >>> brightness(torch.full((2, 3, 8, 8), 0.5), ["a", "b"])
        tensor([0.5000, 0.5000])
    """

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Score each picture.

        Args:
            images: (B, 3, H, W) in [0, 1].
            prompts: B prompts.

        Returns:
            (B,) scores, float32; the gradient reaches `images`.
        """
        ...


@attrs.frozen(eq=False)
class InParts:
    """Scores (B,) together with what they are made of.

    Args:
        scores: (B,), the reward.
        parts: further values of each picture by name, (B,) each, such as `likeness.raw`.
    """

    scores: Tensor
    parts: Mapping[str, Tensor]


@runtime_checkable
class RewardInParts(Reward, Protocol):
    """A reward whose parts are logged beside it, in training and in evaluation."""

    def in_parts(self, images: Tensor, prompts: Sequence[str]) -> InParts:
        """Score each picture as a call does, and return the parts too.

        Args:
            images: (B, 3, H, W) in [0, 1].
            prompts: B prompts.

        Returns:
            The scores of a call, and the parts, under the same names every time.
        """
        ...


def in_parts(
    reward: Reward, images: Tensor, prompts: Sequence[str], *, kind: str = "reward"
) -> InParts:
    """Score pictures with any reward; what it raises or returns wrongly is a `ComponentError`."""
    with calling(kind, reward, prompts):
        found: Any = (
            reward.in_parts(images, prompts)
            if isinstance(reward, RewardInParts)
            else InParts(reward(images, prompts), {})
        )
    if not isinstance(found, InParts):
        must = "must return flowbp.rewards.InParts from `in_parts`"
        raise wrong(kind, reward, f"{must}, got {shown(found)}", prompts)
    for name, values in {"": found.scores, **found.parts}.items():
        what = f" as its part `{name}`" if name else ""
        problem = _fault(values, images, trained=not name)
        if problem:
            raise wrong(kind, reward, f"must return{what} {problem}", prompts)
    return found


def check_prompts(images: Tensor, prompts: Sequence[str]) -> None:
    """Refuse another number of prompts than of pictures."""
    if isinstance(prompts, str) or len(prompts) != len(images):
        raise ValueError(
            f"`prompts` must be a sequence of {len(images)} strings, one per picture, got "
            f"{prompts!r}"
        )


def check_inputs(images: Tensor, prompts: Sequence[str]) -> None:
    """Refuse pictures of another shape than (B, 3, H, W), and another number of prompts."""
    check_images(images)
    check_prompts(images, prompts)


def check_images(images: Tensor) -> None:
    """Refuse pictures of another shape than (B, 3, H, W)."""
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"`images` must be (B, 3, H, W), got {tuple(images.shape)}")


def score_in_batches(score: Callable[..., Tensor], *inputs: Any, batch: int | None) -> Tensor:
    """Score B pictures, and the sequences of B beside them, `batch` at a time: (B, …).

    Only one batch's activations exist at once; each is computed again in the backward pass.
    """
    count = len(inputs[0])
    if batch is None or count <= batch:
        return score(*inputs)
    batches = (slice(start, start + batch) for start in range(0, count, batch))
    return torch.cat(
        [
            checkpoint(
                score,
                *(each[rows] for each in inputs),
                use_reentrant=False,
                preserve_rng_state=False,
            )
            for rows in batches
        ]
    )


def _fault(scores: Any, images: Tensor, *, trained: bool) -> str:
    """What is wrong with scores; empty if nothing is."""
    shape, differentiable = (len(images),), images.requires_grad and torch.is_grad_enabled()
    if not isinstance(scores, Tensor) or scores.shape != shape or scores.is_complex():
        return f"a tensor of one score per picture, shape {shape}, got {shown(scores)}"
    if not (differentiable and trained):
        return ""
    if not scores.requires_grad:
        return (
            "scores that are differentiable with respect to the pictures, got scores without a "
            "graph; call neither no_grad(), detach() nor item() inside it, and stay in torch"
        )
    if scores.dtype not in (torch.float32, torch.float64):
        return f"scores of float32, got {scores.dtype}; end with .float()"
    if scores.device != images.device:
        return (
            f"scores on the device of the pictures, {images.device}, got {scores.device}; end with "
            ".to(images.device)"
        )
    return ""
