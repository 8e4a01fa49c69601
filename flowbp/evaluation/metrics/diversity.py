"""How much the pictures of one prompt differ: what a collapse takes away."""

from __future__ import annotations

import math
from collections.abc import Mapping

import attrs
import torch
from torch import Tensor

from flowbp.evaluation.metric import PictureSet
from flowbp.evaluation.metrics.embedding import Embedding, Points
from flowbp.evaluation.validators import not_empty
from flowbp.limits import BATCH
from flowbp.validators import integer


def mean_pairwise_distance(points: Tensor) -> float:
    """The mean distance of two points: ``mean over i < j of |p_i - p_j|² / 2``.

    For unit points that is one minus their cosine.
    """
    if len(points) < 2:
        raise ValueError(f"`points` must be at least 2, got {len(points)}")
    # Of differences, so that equal pictures are at 0 exactly.
    pairs = torch.combinations(torch.arange(len(points)))
    difference = points[pairs[:, 0]].double() - points[pairs[:, 1]].double()
    return float(difference.square().sum(-1).mean() / 2)


@attrs.frozen(kw_only=True, eq=False)
class Diversity:
    """Mean pairwise distance of the pictures of one prompt over their seeds.

    ``1 - cos`` of the embeddings, averaged over the pairs. The number stands at the first picture
    of the prompt, and NaN at the others, so that a mean over the column is one over prompts, which
    are independent, as pairs are not. A prompt of one picture has none.

    Args:
        embedding: Of pictures.
        label: Name of the column.
        batch: Pictures in the embedding at a time.
        points: Those that are known already; metrics of one embedding may share them.

    Raises:
        ValueError: `label` is empty, or `batch` is below 1.

    Example:
        >>> from flowbp.evaluation import HeldOutPrompt
        >>> pictures = PictureSet(label="base", prompts=[HeldOutPrompt("a circle")] * 2,
        ...                       numbers=[0, 0], seeds=[1, 2], pictures=torch.ones(2, 3, 4, 4))
        >>> Diversity(embedding=lambda images: images.mean((2, 3)))(pictures, pictures)
        {'diversity': tensor([0., nan], dtype=torch.float64)}
    """

    embedding: Embedding
    label: str = attrs.field(default="diversity", validator=not_empty)
    batch: int = attrs.field(default=16, validator=integer(1, BATCH))
    points: Points = attrs.field(factory=Points, repr=False)

    def __call__(self, model: PictureSet, base: PictureSet) -> Mapping[str, Tensor]:
        """Measure the diversity of `model`; `base` plays no part."""
        places: dict[str, list[int]] = {}
        for place, prompt in enumerate(model.prompts):
            places.setdefault(prompt.text, []).append(place)
        several = {text: own for text, own in places.items() if len(own) > 1}
        if not several:
            raise ValueError(
                f"`{self.label}` needs several pictures of a prompt, got one of each; evaluate "
                "with more than one seed"
            )
        points = self.points.of(model, self.embedding, batch=self.batch)
        column = torch.full((len(points),), math.nan, dtype=torch.float64)
        for own in several.values():
            column[own[0]] = mean_pairwise_distance(points[own])
        return {self.label: column}
