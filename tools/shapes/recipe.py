"""The numbers of the build."""

from __future__ import annotations

import attrs


@attrs.frozen
class Recipe:
    """Sizes and lengths of the three trainings.

    Args:
        seed: of the data, the initial weights and every draw.
        vae_pictures: how many pictures are drawn for the autoencoder.
        pictures: how many are drawn for the base model and the reward.
        wrong_captions: wrong captions kept with each picture.
        empty_part: part of the captions that the base model is trained on which are empty, for
            classifier-free guidance.
        wrong_part: part of the others which are wrong.
        vae_steps: optimizer steps of the autoencoder.
        base_steps: optimizer steps of the base model.
        reward_steps: optimizer steps of the reward model.
        vae_batch: pictures a step.
        base_batch: pictures a step.
        reward_batch: pictures a step.
    """

    seed: int = 0
    vae_pictures: int = 200_000
    pictures: int = 200_000
    wrong_captions: int = 4
    empty_part: float = 0.1
    wrong_part: float = 0.15
    vae_steps: int = 6_000
    base_steps: int = 39_500
    reward_steps: int = 8_000
    vae_batch: int = 256
    base_batch: int = 512
    reward_batch: int = 256

    def shortened(self, factor: float) -> Recipe:
        """The same with every length multiplied by `factor`, at least 2 steps each."""
        return attrs.evolve(
            self,
            vae_pictures=max(2, round(self.vae_pictures * factor)),
            pictures=max(2, round(self.pictures * factor)),
            vae_steps=max(2, round(self.vae_steps * factor)),
            base_steps=max(2, round(self.base_steps * factor)),
            reward_steps=max(2, round(self.reward_steps * factor)),
        )
