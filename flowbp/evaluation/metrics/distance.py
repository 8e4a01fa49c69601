"""How far a model has gone from the base model, picture by picture from the same noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs
import torch
from torch import Tensor

from flowbp.evaluation.metric import PictureSet, Scale
from flowbp.evaluation.metrics.embedding import Embedding, Points
from flowbp.evaluation.validators import not_empty
from flowbp.limits import BATCH
from flowbp.validators import integer


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
class BaseDistance:
    """Distance of each picture from the base model's of the same prompt and noise: ``1 - cos``.

    Of the embeddings: what the picture shows has changed, rather than its pixels. The base model
    itself is at 0.

    Args:
        embedding: Of pictures.
        label: Name of the column.
        batch: Pictures in the embedding at a time.
        points: Those that are known already; metrics of one embedding may share them.

    Raises:
        ValueError: `label` is empty, or `batch` is below 1.

    Example:
        >>> from flowbp.evaluation import HeldOutPrompt
        >>> base = PictureSet(label="base", prompts=[HeldOutPrompt("a")], numbers=[0], seeds=[1],
        ...                   pictures=torch.ones(1, 3, 4, 4))
        >>> BaseDistance(embedding=lambda images: images.mean((2, 3)))(base, base)
        {'distance from base': tensor([0.], dtype=torch.float64)}
    """

    embedding: Embedding
    label: str = attrs.field(default="distance from base", validator=not_empty)
    batch: int = attrs.field(default=16, validator=integer(1, BATCH))
    points: Points = attrs.field(factory=Points, repr=False)

    @property
    def scales(self) -> Mapping[str, Scale]:
        """How far a model has gone is neither good nor bad."""
        return {self.label: Scale(sign=0)}

    def __call__(self, model: PictureSet, base: PictureSet) -> Mapping[str, Tensor]:
        """Measure the distances."""
        places = counterparts(model, base)
        points = self.points.of(model, self.embedding, batch=self.batch)
        others = self.points.of(base, self.embedding, batch=self.batch)[list(places)]
        # Of differences, so that equal pictures are at 0 exactly.
        return {self.label: (points - others).square().sum(-1) / 2}


@attrs.frozen(kw_only=True, eq=False)
class PixelDistance:
    """Root mean square difference of pixels from the base model's picture of the same noise.

    ``sqrt(mean (x - x_base)²)``, between 0 and 1. It also counts what no eye would.

    Args:
        label: Name of the column.

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
        places = counterparts(model, base)
        found = [
            _root_mean_square(model.pictures, base.pictures, here, there)
            for here, there in enumerate(places)
        ]
        return {self.label: torch.tensor(found, dtype=torch.float64)}


def _root_mean_square(
    pictures: Sequence[Tensor] | Tensor, others: Sequence[Tensor] | Tensor, here: int, there: int
) -> float:
    picture, other = pictures[here], others[there]
    if picture.shape != other.shape:
        raise ValueError(
            f"`base` must hold pictures of {tuple(picture.shape)} as the model does, got "
            f"{tuple(other.shape)}; make both of one size"
        )
    difference = picture.double() - other.to(picture.device).double()
    return float(difference.square().mean().sqrt())
