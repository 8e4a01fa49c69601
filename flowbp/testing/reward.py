"""Conformance of rewards."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from flowbp.rewards import Reward, RewardInParts

from .assertions import (
    assert_arguments,
    assert_close,
    assert_finite,
    assert_same_shape,
    smooth_pictures,
)


def check_reward(
    reward: Reward,
    prompts: Sequence[str],
    *,
    height: int = 64,
    width: int = 64,
    device: torch.device | str = "cpu",
    tolerance: float = 1e-4,
    difference_tolerance: float = 5e-2,
    step: float = 1e-2,
    seed: int = 0,
) -> None:
    """Assert that a reward is one that can be back-propagated.

    Scores are float32 (B,), finite, the same at every call, and do not depend on which other
    images share the batch or on their order; the gradient reaches the images, is finite, and
    agrees with central differences along random directions. The parts of a composed reward are
    (B,), finite, and come with the same scores. A function that a configuration can name has the
    arguments `images` and `prompts`, by which it is known to be a reward, and not to make one.

    Args:
        reward: to be checked.
        prompts: B >= 2 prompts that the reward understands, best all different.
        height: of the random images.
        width: of the random images.
        device: of the random images.
        tolerance: between batches, relative to the largest score.
        difference_tolerance: of the gradient, relative to the size that its norm leads to expect
            along a random direction.
        step: of the difference, in units of pixels.
        seed: of images and directions.

    Raises:
        AssertionError: says what does not hold.

    Example:
        >>> check_reward(lambda images, prompts: images.mean(dim=(1, 2, 3)), ["a", "b"])
    """
    if len(prompts) < 2:
        raise ValueError(
            f"`prompts` must hold at least 2, got {len(prompts)}; batches are compared"
        )
    assert_arguments(reward, ("images", "prompts"), kind="reward")
    generator = torch.Generator().manual_seed(seed)
    images = smooth_pictures(len(prompts), height, width, generator).to(device)
    _check_scores(reward, images, prompts, tolerance)
    _check_parts(reward, images, prompts)
    _check_image_gradient(reward, images, prompts, generator, difference_tolerance, step)


def _check_scores(reward: Reward, images: Tensor, prompts: Sequence[str], tolerance: float) -> None:
    with torch.no_grad():
        scores, again = reward(images, prompts), reward(images, prompts)
    assert_same_shape("scores", scores, (len(prompts),))
    with torch.no_grad():
        alone = torch.cat(
            [reward(images[b : b + 1], prompts[b : b + 1]) for b in range(len(prompts))]
        )
        flipped = reward(images.flip(0), list(reversed(prompts))).flip(0)
    if scores.dtype != torch.float32:
        raise AssertionError(f"`scores` must be float32, got {scores.dtype}; cast them at the end")
    assert_finite("scores", scores)
    if not torch.equal(scores, again):
        raise AssertionError(
            "`scores` must be the same at every call; put the reward's modules in eval mode"
        )
    assert_close("scores one image at a time", alone, scores, tolerance)
    assert_close("scores in reverse order", flipped, scores, tolerance)


def _check_parts(reward: Reward, images: Tensor, prompts: Sequence[str]) -> None:
    with torch.no_grad():
        scores = reward(images, prompts)
        if not isinstance(reward, RewardInParts):
            return
        found = reward.in_parts(images, prompts)
    if not torch.equal(found.scores, scores):
        raise AssertionError("`in_parts` must give the scores of a call, got others")
    for name, part in found.parts.items():
        assert_same_shape(f"part {name}", part, (len(prompts),))
        assert_finite(f"part {name}", part)


def _check_image_gradient(
    reward: Reward,
    images: Tensor,
    prompts: Sequence[str],
    generator: torch.Generator,
    tolerance: float,
    step: float,
) -> None:
    x = images.clone().requires_grad_()
    with torch.enable_grad():
        scores = reward(x, prompts)
    if not scores.requires_grad:
        raise AssertionError(
            "`scores` must carry a gradient to the images, got none; "
            "drop no_grad(), detach() and conversions to PIL or numpy inside the reward"
        )
    (gradient,) = torch.autograd.grad(scores.sum(), x)
    assert_finite("gradient", gradient)
    size = float(gradient.double().norm())
    if size == 0:
        raise AssertionError("the reward's gradient must not vanish on every image, got all zeros")
    for _ in range(3):
        direction = torch.randn(images.shape, generator=generator).to(images)
        with torch.no_grad():
            up = reward(images + step * direction, prompts).double().sum()
            down = reward(images - step * direction, prompts).double().sum()
        expected = float(up - down) / (2 * step)
        actual = float((gradient.double() * direction.double()).sum())
        gap = abs(actual - expected) / max(size, abs(expected))
        if gap > tolerance:
            raise AssertionError(
                f"the reward's gradient must agree with central differences to {tolerance:g} "
                f"relative, got {actual:.4g} where the difference is {expected:.4g} "
                f"(gradient norm {size:.3g}, step {step:g})"
            )
