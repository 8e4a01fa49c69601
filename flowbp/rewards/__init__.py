"""Differentiable rewards; transformers is imported when one is loaded."""

from __future__ import annotations

from flowbp.rewards.aesthetic import AestheticScore as AestheticScore
from flowbp.rewards.clip import ClipReward as ClipReward
from flowbp.rewards.clip import ClipTower as ClipTower
from flowbp.rewards.clip import as_written as as_written
from flowbp.rewards.clip import repaired as repaired
from flowbp.rewards.clip_model import VIT_H_14 as VIT_H_14
from flowbp.rewards.clip_model import ClipArchitecture as ClipArchitecture
from flowbp.rewards.clip_model import TransformerSizes as TransformerSizes
from flowbp.rewards.clip_model import load_open_clip as load_open_clip
from flowbp.rewards.clipscore import CLIPScore as CLIPScore
from flowbp.rewards.hpsv2 import HPS_V2_1 as HPS_V2_1
from flowbp.rewards.hpsv2 import HPSv2 as HPSv2
from flowbp.rewards.hpsv3 import HPSv3 as HPSv3
from flowbp.rewards.hpsv3_model import QWEN2_VL_7B as QWEN2_VL_7B
from flowbp.rewards.image_reward import BLIP_LARGE as BLIP_LARGE
from flowbp.rewards.image_reward import IMAGE_REWARD as IMAGE_REWARD
from flowbp.rewards.image_reward import ImageReward as ImageReward
from flowbp.rewards.needs import Need as Need
from flowbp.rewards.needs import needing as needing
from flowbp.rewards.needs import package as package
from flowbp.rewards.pickscore import PickScore as PickScore
from flowbp.rewards.pixels import Resize as Resize
from flowbp.rewards.pixels import crop_shortest_side as crop_shortest_side
from flowbp.rewards.pixels import (
    crop_shortest_side_torchvision as crop_shortest_side_torchvision,
)
from flowbp.rewards.pixels import normalise as normalise
from flowbp.rewards.pixels import pad_longest_side as pad_longest_side
from flowbp.rewards.pixels import stretch as stretch
from flowbp.rewards.reward import InParts as InParts
from flowbp.rewards.reward import Reward as Reward
from flowbp.rewards.reward import RewardInParts as RewardInParts
from flowbp.rewards.reward import in_parts as in_parts
from flowbp.rewards.towers import TOWERS as TOWERS
from flowbp.rewards.towers import ModelReward as ModelReward
from flowbp.rewards.towers import Towers as Towers
from flowbp.rewards.towers import TowerSizes as TowerSizes
from flowbp.rewards.weight_files import check_layout as check_layout
from flowbp.rewards.weight_files import read_weights as read_weights
from flowbp.rewards.weighted import Normalisation as Normalisation
from flowbp.rewards.weighted import RewardPart as RewardPart
from flowbp.rewards.weighted import UncalibratedReward as UncalibratedReward
from flowbp.rewards.weighted import WeightedReward as WeightedReward
from flowbp.rewards.words import EasyOCR as EasyOCR
from flowbp.rewards.words import TrOCR as TrOCR
from flowbp.source_files import PublishedFile as PublishedFile
