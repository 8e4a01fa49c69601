"""Differentiable rewards; transformers is imported when one is loaded."""

from __future__ import annotations

from flowbp.rewards.clip import ClipReward as ClipReward
from flowbp.rewards.clip import as_written as as_written
from flowbp.rewards.figures import InParts as InParts
from flowbp.rewards.figures import RewardInParts as RewardInParts
from flowbp.rewards.figures import in_parts as in_parts
from flowbp.rewards.part import RewardPart as RewardPart
from flowbp.rewards.pixels import Resize as Resize
from flowbp.rewards.pixels import crop_shortest_side as crop_shortest_side
from flowbp.rewards.pixels import normalise as normalise
from flowbp.rewards.pixels import pad_longest_side as pad_longest_side
from flowbp.rewards.pixels import stretch as stretch
from flowbp.rewards.reward import Reward as Reward
from flowbp.rewards.uncalibrated import UncalibratedReward as UncalibratedReward
from flowbp.rewards.weighted import Normalisation as Normalisation
from flowbp.rewards.weighted import WeightedReward as WeightedReward
