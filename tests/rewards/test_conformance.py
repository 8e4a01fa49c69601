"""Every reward of the library keeps the protocol: a new one is a line in `REWARDS`."""

from __future__ import annotations

import pytest

from flowbp.rewards import ClipReward
from flowbp.testing import check_reward

REWARDS = {
    "clip": lambda folder: ClipReward.from_pretrained(folder),
    "clip with logit scale": lambda folder: ClipReward.from_pretrained(folder, logit_scale=True),
}


@pytest.mark.parametrize("name", REWARDS)
def test_a_reward_keeps_the_protocol(folder, name):
    # The tiny model's weights are large, so its score bends within steps of a hundredth.
    prompts = ["a cat", "a dog on a mat"]
    check_reward(REWARDS[name](folder), prompts, height=24, width=20, step=1e-3)
