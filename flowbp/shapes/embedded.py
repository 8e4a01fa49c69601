"""The embedded models: where their weights are in the package, and how to load them."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import torch

from flowbp.adapters import SD3Backbone
from flowbp.adapters.clamp import Clamp, hard_clamp
from flowbp.rewards import ClipReward, needing


def base_folder() -> Path:
    """The base model's folder, in diffusers layout.

    Raises:
        FileNotFoundError: the package was installed without its weights.

    Example:
        >>> base_folder().name
        'base'
    """
    return _weights("base")


def reward_folder() -> Path:
    """The reward model's folder, in CLIPModel layout.

    Raises:
        FileNotFoundError: the package was installed without its weights.

    Example:
        >>> reward_folder().name
        'reward'
    """
    return _weights("reward")


def embedded_backbone(
    *,
    device: torch.device | str = "cpu",
    decode_batch: int | None = None,
    clamp: Clamp = hard_clamp,
) -> SD3Backbone:
    """Load the embedded base model, in float32; it samples pictures of 64x64 pixels.

    Args:
        device: where it runs.
        decode_batch: samples decoded at a time; None is the whole batch.
        clamp: how decoded pixels are brought into [0, 1].

    Returns:
        The backbone, all parameters of its transformer trainable.

    Raises:
        FileNotFoundError: the package was installed without its weights.

    Example:
        ``embedded_backbone().encode(["two blue squares"])``
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
def embedded_reward(*, device: torch.device | str = "cpu") -> ClipReward:
    """Load the embedded reward model, in float32.

    Args:
        device: where it runs.

    Returns:
        The reward: the cosine of picture and caption.

    Raises:
        FileNotFoundError: the package was installed without its weights.

    Example:
        ``embedded_reward()(images, ["two blue squares"])``
    """
    return ClipReward.from_pretrained(reward_folder(), device=device)


def _weights(part: str) -> Path:
    folder = Path(str(files("flowbp.shapes"))) / "weights" / part
    if not folder.is_dir():
        raise FileNotFoundError(
            f"the embedded weights are missing, there is no folder {folder}; reinstall flowbp, or "
            "make them anew with python -m flowbp.shapes.build"
        )
    return folder
