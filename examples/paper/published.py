"""What is published, as far as it is recorded here; arXiv 2606.11075 has the other numbers."""

from __future__ import annotations

from collections.abc import Mapping

MODELS = {
    "sd35_medium": "SD3.5 Medium",
    "flux1_dev": "FLUX.1-dev",
    "flux2_klein": "FLUX.2-klein-base 9B",
}
METHODS = {
    "refl": "ReFL",
    "draft_lv": "DRaFT-LV",
    "drtune": "DRTune",
    "leap_align": "LeapAlign",
    "sparse": "Sparse",
    "bridge": "Bridge",
    "lagrange": "Lagrange",
}
TABLES = {"scores": "Scores", "geneval": "GenEval (HF detector)"}
BASE = "base"
COLUMNS = {
    "hpsv2": "HPSv2.1",
    "pickscore": "PickScore",
    "image_reward": "ImageReward",
    "hpsv3": "HPSv3",
    "clipscore": "CLIPScore",
    "unified_reward": "UnifiedReward",
}

UNNAMED = "published, of a method not recorded here"
"""A row of its own."""

# By model and row; texts, so that they stand with the digits that were published.
SCORES: Mapping[str, Mapping[str, Mapping[str, str]]] = {
    "sd35_medium": {
        BASE: {"hpsv2": "0.2881", "pickscore": "22.50", "image_reward": "0.950"},
        "lagrange": {"hpsv2": "0.3998", "pickscore": "23.50", "image_reward": "1.454"},
    },
    "flux1_dev": {BASE: {"hpsv2": "0.3016"}, UNNAMED: {"hpsv2": "0.4134"}},
    "flux2_klein": {BASE: {"hpsv2": "0.2873"}, "bridge": {"hpsv2": "0.4387"}},
}
PLACES = {"hpsv2": 4, "pickscore": 2, "image_reward": 3}
"""Digits after the point of the published numbers."""

DIFFERENCES = (
    "Eight GPUs are published for SD3.5 Medium. For the FLUX models the batch is that of eight "
    "GPUs by our guess; on another number of GPUs it stays the same, in more or fewer portions.",
    "FLUX.2 with Lagrange: the published file divides the loss by the guidance scale, most likely "
    "a slip, and here it is not divided.",
    "The FLUX models are sampled on the grid of their diffusers pipelines, as no other was "
    "published.",
    "Blocks are compiled, and a model that does not fit one GPU is sharded: both change rounding "
    "alone.",
    "The order of the prompts, the noise and the draws come from our seed.",
    "How the published pictures were sampled is not recorded here. Ours are sampled as in "
    "training, in the same dtypes, with the averaged weights; one picture of each prompt for the "
    "scores.",
    "GenEval is judged by another detector, and UnifiedReward asked your question; compare both "
    "within this page alone.",
)
"""From the published settings, whatever the user's."""
