"""How metrics of all pictures of a model are named in YAML, and built."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import torch

from flowbp.configuration import Component
from flowbp.evaluation import HeldOut
from flowbp.metrics import (
    BaseDistance,
    Diversity,
    Embedding,
    PixelDistance,
    Points,
    clip_embedding,
)
from flowbp.rewards import TOWERS, Towers

CLIP: Component[Embedding] = Component("clip", clip_embedding)
"""The embedding of a metric that names none."""


@attrs.frozen(eq=False)
class PointsByEmbedding:
    """The points of pictures under each embedding as it was configured.

    Example:
        >>> means = Component("means", lambda: lambda images: images.mean((2, 3)))
        >>> points = PointsByEmbedding()
        >>> points.of(means) is points.of(means)
        True
    """

    _known: list[tuple[Component[Embedding], Points]] = attrs.field(
        factory=list, init=False, repr=False
    )

    def of(self, embedding: Component[Embedding]) -> Points:
        """The points of an embedding; the same for two that are configured alike.

        Args:
            embedding: by its name, with its own keys.

        Returns:
            What is known of it.
        """
        whole = attrs.evolve(embedding, name="", arguments=embedding.completed)
        for known, points in self._known:
            if known == whole:
                return points
        self._known.append((whole, Points()))
        return self._known[-1][1]


def _one_of_each(prompts: Sequence[HeldOut], seeds: Sequence[int]) -> str:
    # The same text twice is two pictures of it.
    if len(seeds) > 1 or len({prompt.text for prompt in prompts}) < len(prompts):
        return ""
    return (
        "needs several pictures of a prompt, and there is one of each; give evaluation.seeds more "
        "than one number"
    )


def diversity_metric(
    *,
    embedding: Component[Embedding] = CLIP,
    batch: int = 16,
    label: str = "diversity",
    device: torch.device | str = "cpu",
    towers: Towers = TOWERS,
    points: PointsByEmbedding | None = None,
) -> Diversity:
    """Mean pairwise distance of the pictures of a prompt, in an embedding.

    Args:
        embedding: by its name, with its own keys; OpenAI's CLIP ViT-L/14 unless said otherwise.
        batch: pictures in the embedding at a time.
        label: offered; the metric's.
        device: offered to the embedding.
        towers: offered to the embedding.
        points: offered; those of other metrics of the same embedding.

    Returns:
        The metric.

    Raises:
        ValueError: `batch` is below 1.
        Exception: what building the embedding raises.

    Example:
        >>> means = Component("means", lambda: lambda images: images.mean((2, 3)))
        >>> diversity_metric(embedding=means, label="spread").label
        'spread'
    """
    return Diversity(
        embedding=embedding.build(device=device, towers=towers),
        batch=batch,
        label=label,
        points=(points or PointsByEmbedding()).of(embedding),
    )


diversity_metric.unfit = _one_of_each  # type: ignore[attr-defined]


def distance_metric(
    *,
    embedding: Component[Embedding] = CLIP,
    batch: int = 16,
    label: str = "distance",
    device: torch.device | str = "cpu",
    towers: Towers = TOWERS,
    points: PointsByEmbedding | None = None,
) -> BaseDistance:
    """Distance of each picture from the base model's of the same noise, in an embedding.

    Args:
        embedding: by its name, with its own keys; OpenAI's CLIP ViT-L/14 unless said otherwise.
        batch: pictures in the embedding at a time.
        label: offered; the metric's.
        device: offered to the embedding.
        towers: offered to the embedding.
        points: offered; those of other metrics of the same embedding.

    Returns:
        The metric.

    Raises:
        ValueError: `batch` is below 1.
        Exception: what building the embedding raises.

    Example:
        >>> means = Component("means", lambda: lambda images: images.mean((2, 3)))
        >>> distance_metric(embedding=means).batch
        16
    """
    return BaseDistance(
        embedding=embedding.build(device=device, towers=towers),
        batch=batch,
        label=label,
        points=(points or PointsByEmbedding()).of(embedding),
    )


def pixel_distance_metric(*, label: str = "pixel_distance") -> PixelDistance:
    """Root mean square difference of each picture from the base model's of the same noise.

    Args:
        label: offered; the metric's.

    Returns:
        The metric.

    Example:
        >>> pixel_distance_metric().label
        'pixel_distance'
    """
    return PixelDistance(label=label)
