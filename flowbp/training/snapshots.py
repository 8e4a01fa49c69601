"""The same pictures again and again while a model is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
from torch import Tensor

from flowbp.core._validators import integer
from flowbp.training.prompts import as_texts, not_blank

if TYPE_CHECKING:
    from flowbp.evaluation.generate import Sampling
    from flowbp.training.step import TrainingStep


@attrs.frozen
class Snapshots:
    """Which pictures are sampled at intervals, always from the same noise.

    Args:
        prompts: one picture each; they need not be prompts of the training.
        every: optimizer steps from one set to the next. There is one before training and one
            after the last step besides.
        seed: of the noise.
        sampling: grid, guidance and portions; those of the training step if None.

    Raises:
        ValueError: no prompts, a blank one, or a number out of range.
        TypeError: `prompts` is a single text.

    Example:
        >>> [step for step in range(11) if Snapshots(["a circle"], every=4).due(step, 10)]
        [0, 4, 8, 10]
    """

    prompts: tuple[str, ...] = attrs.field(converter=as_texts, validator=not_blank)
    every: int = attrs.field(validator=integer(1))
    seed: int = attrs.field(default=0, validator=integer(0))
    sampling: Sampling | None = attrs.field(default=None, kw_only=True)

    def due(self, step: int, total: int) -> bool:
        """Whether pictures are sampled after `step` of `total` steps."""
        return step % self.every == 0 or step == total

    def take(self, step: TrainingStep) -> Tensor:
        """Sample them with a training step's backbone.

        Args:
            step: whose model to use, and whose sampling if there is none besides.

        Returns:
            (n, 3, H, W) in [0, 1], float32, on the CPU.
        """
        from flowbp.evaluation.generate import Sampling, generate

        sampling = self.sampling or Sampling(
            steps=step.sampling.steps,
            height=step.sampling.height,
            width=step.sampling.width,
            guidance=step.sampling.guidance,
            negative_prompt=step.sampling.negative_prompt,
            batch=step.sizes.samples,
            decode=step.sizes.decode,
            grid=step.sampling.grid,
        )
        return generate(step.backbone, self.prompts, self.seed, sampling)
