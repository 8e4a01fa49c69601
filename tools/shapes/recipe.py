"""The numbers of the build."""

from __future__ import annotations

import math

import attrs


@attrs.frozen
class Recipe:
    """Sizes and lengths of the three trainings."""

    seed: int = 0
    vae_pictures: int = 200_000
    pictures: int = 200_000
    # Of a right and a flawed picture, for the reward.
    pairs: int = 100_000
    # Kept with each picture.
    wrong_captions: int = 4
    # Of the captions of the base model: empty ones, for classifier-free guidance, and of the others
    # the wrong ones.
    empty_part: float = 0.1
    wrong_part: float = 0.15
    vae_steps: int = 6_000
    base_steps: int = 39_500
    reward_steps: int = 8_000
    vae_batch: int = 256
    base_batch: int = 512
    reward_batch: int = 192
    # What the first two trainings may take at most, whatever their steps.
    vae_seconds: float = math.inf
    base_seconds: float = math.inf

    def shortened(self, factor: float) -> Recipe:
        """The same with every length multiplied by `factor`, at least 2 steps each."""
        lengths = ("vae_pictures", "pictures", "pairs", "vae_steps", "base_steps", "reward_steps")
        return attrs.evolve(
            self, **{name: max(2, round(getattr(self, name) * factor)) for name in lengths}
        )
