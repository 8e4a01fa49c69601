"""What the benchmarks run: the shipped presets, and a reward of the size of the published ones."""

from __future__ import annotations

import torch
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from benchmarks.random_backbone import drawn_on
from flowbp.adapters import DtypePolicy
from flowbp.rewards import ClipReward
from flowbp.settings import Settings, load

PUBLISHED = {
    "sd35_medium": "sd3.5 medium",
    "flux1_dev": "flux1 dev",
    "flux2_klein": "flux2 klein 9B",
}
METHODS = ("refl", "draft_lv", "drtune", "leap_align", "sparse", "bridge", "lagrange", "draft")


def settings_of(model: str, method: str, *overrides: str) -> Settings:
    """The two presets as they ship, with what every run has to say besides.

    But for compiling, which the benchmarks switch themselves unless `overrides` say so.
    """
    needed = ["run.folder=benchmark", "reward.name=clip", "reward.source=none", "loss.name=linear"]
    if not any(each.startswith("run.compile=") for each in overrides):
        needed.append("run.compile=false")
    files = (f"presets/{model}.yaml", f"presets/{model}/{method}.yaml")
    return load([*files, *needed, "samples=null", "prompts.name=shapes", *overrides]).settings


def vision_reward(device: torch.device, *, small: bool) -> ClipReward:
    """A ViT-H/14 CLIP with random weights in bfloat16, the size of HPSv2.1 and PickScore.

    The same weights whenever and wherever it is made.
    """
    text = dict(vocab_size=3, eos_token_id=1)
    if small:
        text |= dict(hidden_size=8, intermediate_size=8, num_hidden_layers=1)
        vision = dict(image_size=28, hidden_size=8, intermediate_size=8, num_hidden_layers=1)
        heads = dict(num_attention_heads=1)
    else:
        text |= dict(hidden_size=1024, intermediate_size=4096, num_hidden_layers=24)
        vision = dict(hidden_size=1280, intermediate_size=5120, num_hidden_layers=32)
        heads = dict(num_attention_heads=16)
    config = CLIPConfig(
        text_config=text | heads,
        vision_config=vision | heads | dict(patch_size=14),
        projection_dim=1024,
    )
    dtype = torch.float32 if small else torch.bfloat16
    with drawn_on(device, torch.float32, seed=0):
        model = CLIPModel(config)
    return ClipReward(
        model=model, tokenizer=CLIPTokenizer(), policy=DtypePolicy(dtype, dtype), device=device
    )
