"""The reward check passes on a sound reward, and finds each fault of a broken one."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from flowbp.testing import check_reward

PROMPTS = ["red", "a green one", "blue"]


def colour(images, prompts):
    """A smooth reward: how near the mean colour is to one that the prompt's length names."""
    wanted = torch.tensor([[len(p) / 20, 0.5, 0.2] for p in prompts])
    return -((images.mean(dim=(2, 3)) - wanted) ** 2).sum(dim=1)


def test_a_sound_reward_passes():
    check_reward(colour, PROMPTS, height=16, width=24)


class HalfGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient / 2


def partly_detached(images, prompts):
    """Sees both halves, learns from the left one."""
    left, right = images.chunk(2, dim=3)
    return colour(torch.cat([left, right.detach()], dim=3), prompts)


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (lambda x, p: colour(x, p).mean(), "shape"),
        (lambda x, p: colour(x, p)[:, None], "shape"),
        (lambda x, p: colour(x, p).double(), "float32"),
        (lambda x, p: colour(x, p) / 0, "finite"),
        (lambda x, p: colour(x, p) + torch.rand(len(p)), "the same at every call"),
        (lambda x, p: colour(x - x.mean(dim=0), p), "one image at a time"),
        (lambda x, p: colour(x, sorted(p)), "one image at a time|reverse order"),
        (lambda x, p: colour(x, p) * torch.arange(1.0, 1 + len(p)), "one image at a time"),
        (lambda x, p: colour(x.detach(), p), "must carry a gradient"),
        (lambda x, p: colour(x.detach() + 0 * x, p), "must not vanish"),
        (lambda x, p: colour(HalfGradient.apply(x), p), "central differences"),
        (partly_detached, "central differences"),
    ],
)
def test_a_fault_is_found_and_named(reward, message):
    with pytest.raises(AssertionError, match=message):
        check_reward(reward, PROMPTS, height=16, width=16)


def test_dropout_left_on_is_found():
    drop = nn.Dropout(0.5)
    with pytest.raises(AssertionError, match="eval mode"):
        check_reward(lambda x, p: colour(drop(x), p), PROMPTS)


def misnamed(pictures, texts):
    return colour(pictures, texts)


def test_a_function_that_yaml_would_not_take_for_a_reward_is_found():
    with pytest.raises(AssertionError, match="`misnamed` must have the arguments `images` and"):
        check_reward(misnamed, PROMPTS)


def test_one_prompt_is_not_enough():
    with pytest.raises(ValueError, match="`prompts` must hold at least 2, got 1"):
        check_reward(colour, ["one"])
