"""Distances between pictures: diversity over seeds, and how far a model has gone from its base."""

from __future__ import annotations

import math
from collections.abc import Mapping

import attrs
import torch
from torch import Tensor

from flowbp.evaluation.metric import PictureSet, Scale
from flowbp.evaluation.metrics.embedding import Embedding, Points
from flowbp.limits import BATCH
from flowbp.validators import integer, not_empty


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


def counterparts(model: PictureSet, base: PictureSet) -> tuple[int, ...]:
    """Which picture of the base has the prompt and the noise of each of the model's."""
    there = {key: place for place, key in enumerate(base.keys)}
    found = []
    for (number, seed), prompt in zip(model.keys, model.prompts, strict=True):
        place = there.get((number, seed))
        if place is None or base.prompts[place].text != prompt.text:
            raise ValueError(
                f"`base` must hold a picture of {prompt.text!r} (prompt {number}) from seed {seed} "
                f"as {model.label!r} does; make both from one list and one set of seeds"
            )
        found.append(place)
    return tuple(found)


@attrs.frozen(kw_only=True, eq=False)
class _EmbeddedMetric:
    embedding: Embedding
    label: str = attrs.field(validator=not_empty)
    batch: int = attrs.field(default=16, validator=integer(1, BATCH))
    points: Points = attrs.field(factory=Points, repr=False)

    def embedded(self, pictures: PictureSet) -> Tensor:
        """The points of a set's pictures."""
        return self.points.of(pictures, self.embedding, batch=self.batch)


@attrs.frozen(kw_only=True, eq=False)
class Diversity(_EmbeddedMetric):
    """Mean pairwise distance of the pictures of one prompt over their seeds.

    ``1 - cos`` of the embeddings, averaged over the pairs. The number stands at the first picture
    of the prompt, and NaN at the others, so that a mean over the column is one over prompts, which
    are independent, as pairs are not. A prompt of one picture has none.

    Arguments are those of `BaseDistance`.

    Example:
        >>> from flowbp.evaluation import HeldOutPrompt
        >>> pictures = PictureSet(label="base", prompts=[HeldOutPrompt("a circle")] * 2,
        ...                       numbers=[0, 0], seeds=[1, 2], pictures=torch.ones(2, 3, 4, 4))
        >>> Diversity(embedding=lambda images: images.mean((2, 3)))(pictures, pictures)
        {'diversity': tensor([0., nan], dtype=torch.float64)}
    """

    label: str = attrs.field(default="diversity", validator=not_empty)

    def __call__(self, model: PictureSet, base: PictureSet) -> Mapping[str, Tensor]:
        """Measure the diversity of `model`; `base` plays no part."""
        places: dict[str, list[int]] = {}
        for place, prompt in enumerate(model.prompts):
            places.setdefault(prompt.text, []).append(place)
        several = [own for own in places.values() if len(own) > 1]
        if not several:
            raise ValueError(
                f"`{self.label}` needs several pictures of a prompt, got one of each; evaluate "
                "with more than one seed"
            )
        points = self.embedded(model)
        column = torch.full((len(points),), math.nan, dtype=torch.float64)
        for own in several:
            column[own[0]] = mean_pairwise_distance(points[own])
        return {self.label: column}


@attrs.frozen(kw_only=True, eq=False)
class BaseDistance(_EmbeddedMetric):
    """Distance of each picture from the base model's of the same prompt and noise: ``1 - cos``.

    Of the embeddings: what the picture shows has changed, rather than its pixels. The base model
    itself is at 0.

    Args:
        embedding: of pictures.
        label: name of the column.
        batch: pictures in the embedding at a time.
        points: those that are known already; metrics of one embedding may share them.

    Raises:
        ValueError: `label` is empty, or `batch` is below 1.

    Example:
        >>> from flowbp.evaluation import HeldOutPrompt
        >>> base = PictureSet(label="base", prompts=[HeldOutPrompt("a")], numbers=[0], seeds=[1],
        ...                   pictures=torch.ones(1, 3, 4, 4))
        >>> BaseDistance(embedding=lambda images: images.mean((2, 3)))(base, base)
        {'distance from base': tensor([0.], dtype=torch.float64)}
    """

    label: str = attrs.field(default="distance from base", validator=not_empty)

    @property
    def scales(self) -> Mapping[str, Scale]:
        """How far a model has gone is neither good nor bad."""
        return {self.label: Scale(sign=0)}

    def __call__(self, model: PictureSet, base: PictureSet) -> Mapping[str, Tensor]:
        """Measure the distances."""
        places = counterparts(model, base)
        points, others = self.embedded(model), self.embedded(base)[list(places)]
        # Of differences, so that equal pictures are at 0 exactly.
        return {self.label: (points - others).square().sum(-1) / 2}


@attrs.frozen(kw_only=True, eq=False)
class PixelDistance:
    """Root mean square difference of pixels from the base model's picture of the same noise.

    ``sqrt(mean (x - x_base)²)``, between 0 and 1. It also counts what no eye would.

    Args:
        label: name of the column.

    Raises:
        ValueError: `label` is empty.

    Example:
        >>> from flowbp.evaluation import HeldOutPrompt
        >>> base = PictureSet(label="base", prompts=[HeldOutPrompt("a")], numbers=[0], seeds=[1],
        ...                   pictures=torch.ones(1, 3, 4, 4))
        >>> PixelDistance()(attrs.evolve(base, pictures=torch.zeros(1, 3, 4, 4)), base)
        {'pixel distance from base': tensor([1.], dtype=torch.float64)}
    """

    label: str = attrs.field(default="pixel distance from base", validator=not_empty)

    @property
    def scales(self) -> Mapping[str, Scale]:
        """How far a model has gone is neither good nor bad."""
        return {self.label: Scale(sign=0)}

    def __call__(self, model: PictureSet, base: PictureSet) -> Mapping[str, Tensor]:
        """Measure the distances."""
        distances = []
        for here, there in enumerate(counterparts(model, base)):
            picture, other = model.pictures[here], base.pictures[there]
            if picture.shape != other.shape:
                raise ValueError(
                    f"`base` must hold pictures of {tuple(picture.shape)} as the model does, got "
                    f"{tuple(other.shape)}; make both of one size"
                )
            difference = picture.double() - other.to(picture.device).double()
            distances.append(float(difference.square().mean().sqrt()))
        return {self.label: torch.tensor(distances, dtype=torch.float64)}
