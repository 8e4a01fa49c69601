"""Every reward of the library keeps the protocol: a new one is a line in `REWARDS`."""

from __future__ import annotations

from functools import partial

import pytest

from flowbp.adapters.dtype_policy import FLOAT32
from flowbp.rewards import ClipReward
from flowbp.testing import check_reward

from . import tiny_hpsv3, tiny_image_reward, tiny_words
from .published_rewards import NAMES, build

REWARDS = {
    "clip": lambda folder, _: ClipReward.from_pretrained(folder),
    "clip with logit scale": lambda folder, _: ClipReward.from_pretrained(folder, logit_scale=True),
    **{name: partial(build, name) for name in NAMES},
    **{f"{name} in portions": partial(build, name, batch=1) for name in NAMES},
    "image_reward": lambda _, path: tiny_image_reward.load(tiny_image_reward.save(path)),
    "hpsv3": lambda _, path: tiny_hpsv3.load(
        tiny_hpsv3.save(path, tiny_hpsv3.original()), tokenizer=path, policy=FLOAT32
    ),
    "easyocr": lambda _, path: tiny_words.easyocr(path / "english_g2.pth"),
    "easyocr in portions": lambda _, path: tiny_words.easyocr(path / "english_g2.pth", batch=1),
    "trocr": lambda _, path: tiny_words.trocr(path),
    "trocr in portions": lambda _, path: tiny_words.trocr(path, batch=1),
}


# Where neighbours are equal, as on smooth pictures, pooling has no derivative; `test_words` holds
# this gradient closely, on noise and in float64.
BENT = {"easyocr": 0.5, "easyocr in portions": 0.5}


@pytest.mark.parametrize("name", REWARDS)
def test_a_reward_keeps_the_protocol(name, folder, tmp_path):
    # The tiny model's weights are large, so its score bends within steps of a hundredth.
    check_reward(
        REWARDS[name](folder, tmp_path),
        ['a cat "on"', 'a dog on a mat "off"'],
        height=24,
        width=20,
        step=1e-3,
        difference_tolerance=BENT.get(name, 5e-2),
    )
