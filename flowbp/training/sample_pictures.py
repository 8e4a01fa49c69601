"""Sample pictures during training, from the same noise each time, and their grids on disk."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
from torch import Tensor

from flowbp.files import write_atomically
from flowbp.training.observers import Observer
from flowbp.training.prompts import as_texts, not_blank
from flowbp.validators import integer

if TYPE_CHECKING:
    from flowbp.evaluation.sampling import Sampling
    from flowbp.training.step import TrainingStep


@attrs.frozen
class Snapshots:
    """Which pictures are sampled every so many steps, always from the same noise.

    There is one set before training and one after the last step besides.
    """

    prompts: tuple[str, ...] = attrs.field(converter=as_texts, validator=not_blank)
    every: int = attrs.field(validator=integer(1))
    # Of the noise.
    seed: int = attrs.field(default=0, validator=integer(0))
    # Grid, guidance and portions; those of the training step if None.
    sampling: Sampling | None = attrs.field(default=None, kw_only=True)

    def due(self, step: int, total: int) -> bool:
        """Whether pictures are sampled after `step` of `total` steps."""
        return step % self.every == 0 or step == total

    def take(self, step: TrainingStep) -> Tensor | None:
        """Sample them with a training step's backbone; None on others than its first process."""
        from flowbp.evaluation.sampling import Sampling, generate, take_part

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
        if not step.ranks.first:
            take_part(step.backbone, self.prompts, self.seed, sampling, step.ranks)
            return None
        return generate(step.backbone, self.prompts, self.seed, sampling, ranks=step.ranks)


class SampleGrids(Observer):
    """`000100.png` for the pictures after step 100, and `prompts.txt` in the grid's order.

    Each picture is `scale` times as wide on disk. `facts` is called once there are pictures, for
    texts to be written into each file besides its step and its prompts, such as
    `flowbp.evaluation.sampling_facts`.
    """

    def __init__(
        self, folder: Path, *, scale: int = 1, facts: Callable[[], Mapping[str, str]] = dict
    ) -> None:
        if scale < 1:
            raise ValueError(f"`scale` must be at least 1, got {scale}")
        self.folder, self._scale, self._facts = Path(folder), scale, facts

    def pictures(self, step: int, images: Tensor, prompts: Sequence[str]) -> None:
        """Write the grid of (n, 3, H, W)."""
        from flowbp.evaluation.pictures import grid, labelled_png, upscale

        sheet = grid(upscale(images, self._scale))
        own = {"step": str(step), "prompts": json.dumps(list(prompts), ensure_ascii=False)}
        texts = {**self._facts(), **own}
        write_atomically(self.folder / f"{step:06}.png", labelled_png(sheet, texts))
        listed = "".join(f"{prompt}\n" for prompt in prompts)
        write_atomically(self.folder / "prompts.txt", listed)
