"""The scales of a weighted reward, as they are printed."""

from __future__ import annotations

from flowbp.cli.run.phases import scales
from flowbp.rewards import Normalisation, RewardPart, WeightedReward


def test_scales_are_a_line_each():
    parts = {"bright": RewardPart(lambda images, prompts: images.mean((1, 2, 3)))}
    text = scales(WeightedReward(parts, {"bright": Normalisation(0.5, 0.25)}), "scales")
    assert text.splitlines() == ["scales", "  bright  weight 1, mean 0.5, standard deviation 0.25"]
