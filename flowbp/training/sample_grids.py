"""Sample pictures at intervals, on disk as grids."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from flowbp.files import write_whole
from flowbp.training.metrics import Metrics


class SampleGrids:
    """`000100.png` for the pictures after step 100, and `prompts.txt` in the grid's order.

    Args:
        folder: where they go; made with the first pictures.
        columns: pictures in a row; about square if None.
        scale: pixels on disk for each pixel of a picture, along a side.
        facts: asked once there are pictures, for texts to be written into each file besides its
            step and its prompts, such as `flowbp.evaluation.sampling_facts`.

    Raises:
        ValueError: `columns` or `scale` is below 1.

    Example:
        >>> import torch
        >>> from tempfile import mkdtemp
        >>> grids = SampleGrids(Path(mkdtemp()), columns=2)
        >>> grids.pictures(0, torch.zeros(2, 3, 8, 8), ["a circle", "a square"])
        >>> sorted(path.name for path in grids.folder.iterdir())
        ['000000.png', 'prompts.txt']
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

    def row(self, metrics: Metrics) -> None:
        """Nothing: figures are not pictures."""

    def pictures(self, step: int, images: Tensor, prompts: Sequence[str]) -> None:
        """Write the grid of (n, 3, H, W)."""
        from flowbp.evaluation.pictures import grid, labelled_png, upscale

        sheet = grid(upscale(images, self._scale), columns=self._columns)
        own = {"step": str(step), "prompts": json.dumps(list(prompts), ensure_ascii=False)}
        texts = {**self._facts(), **own}
        write_whole(self.folder / f"{step:06}.png", labelled_png(sheet, texts))
        listed = "".join(f"{prompt}\n" for prompt in prompts)
        write_whole(self.folder / "prompts.txt", listed)

    def close(self) -> None:
        """Nothing is open."""
