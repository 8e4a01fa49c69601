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

    Args:
        prompts: one picture each; they need not be prompts of the training.
        every: optimizer steps from one set to the next. There is one before training and one
            after the last step besides.
        seed: of the noise.
        sampling: grid, guidance and portions; those of the training step if None.

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
        """Sample them with a training step's backbone."""
        from flowbp.evaluation.sampling import Sampling, generate

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


class SampleGrids(Observer):
    """`000100.png` for the pictures after step 100, and `prompts.txt` in the grid's order.

    Args:
        folder: where they go; made with the first pictures.
        columns: pictures in a row; about square if None.
        scale: pixels on disk for each pixel of a picture, along a side.
        facts: called once there are pictures, for texts to be written into each file besides its
            step and its prompts, such as `flowbp.evaluation.sampling_facts`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        columns: int | None = None,
        scale: int = 1,
        facts: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        for name, value in (("columns", columns), ("scale", scale)):
            if value is not None and value < 1:
                raise ValueError(f"`{name}` must be at least 1, got {value}")
        self.folder = Path(folder)
        self._columns = columns
        self._scale = scale
        self._facts = facts

    def pictures(self, step: int, images: Tensor, prompts: Sequence[str]) -> None:
        """Write the grid of (n, 3, H, W)."""
        from flowbp.evaluation.pictures import grid, labelled_png, upscale

        sheet = grid(upscale(images, self._scale), columns=self._columns)
        own = {"step": str(step), "prompts": json.dumps(list(prompts), ensure_ascii=False)}
        texts = {**self._facts(), **own}
        write_atomically(self.folder / f"{step:06}.png", labelled_png(sheet, texts))
        listed = "".join(f"{prompt}\n" for prompt in prompts)
        write_atomically(self.folder / "prompts.txt", listed)
