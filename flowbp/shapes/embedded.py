"""The embedded models: where their weights are in the package, and how to load them."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import torch

from flowbp.adapters import SD3Backbone
from flowbp.adapters.decoder import Clamp, hard_clamp
from flowbp.rewards import TOWERS, ClipReward, Towers, needing


def base_folder() -> Path:
    """The base model's folder, in diffusers layout."""
    return _weights("base")


def reward_folder() -> Path:
    """The reward model's folder, in CLIPModel layout."""
    return _weights("reward")


def embedded_backbone(
    *,
    device: torch.device | str = "cpu",
    decode_batch: int | None = None,
    clamp: Clamp = hard_clamp,
) -> SD3Backbone:
    """Load the embedded base model, in float32; it samples pictures of 64x64 pixels.

    Args:
        device: Where it runs.
        decode_batch: Samples decoded at a time; None is the whole batch.
        clamp: How decoded pixels are brought into [0, 1].
    """
    return SD3Backbone.from_pretrained(
        base_folder(),
        device=device,
        use_t5=False,
        text_length=0,
        decode_batch=decode_batch,
        clamp=clamp,
    )


@needing(lambda: ClipReward.from_pretrained.needs(reward_folder(), None))  # type: ignore[attr-defined]
def embedded_reward(*, device: torch.device | str = "cpu", towers: Towers = TOWERS) -> ClipReward:
    """Load the embedded reward model, in float32: the cosine of picture and caption."""
    return ClipReward.from_pretrained(reward_folder(), device=device, towers=towers)


def _weights(part: str) -> Path:
    folder = Path(str(files("flowbp.shapes"))) / "weights" / part
    if not folder.is_dir():
        raise FileNotFoundError(
            f"the embedded weights are missing, there is no folder {folder}; reinstall flowbp, or "
            "make them anew in a checkout with python -m tools.shapes"
        )
    return folder
