"""How metrics of all pictures of a model are named in YAML, and built."""

from __future__ import annotations

import torch

from flowbp.configuration import Component
from flowbp.metrics import (
    BaseDistance,
    Diversity,
    Embedding,
    PixelDistance,
    clip_embedding,
    embedding_needs,
)
from flowbp.rewards import TOWERS, Need, Towers, needing


def _needs(embedding: Component[Embedding] | None) -> tuple[Need, ...]:
    # One that is given is asked itself.
    return embedding_needs() if embedding is None else ()


@needing(_needs)
def diversity_metric(
    *,
    embedding: Component[Embedding] | None = None,
    batch: int = 16,
    label: str = "diversity",
    device: torch.device | str = "cpu",
    towers: Towers = TOWERS,
) -> Diversity:
    """Mean pairwise distance of the pictures of a prompt, in an embedding.

    Args:
        embedding: by its name, with its own keys; OpenAI's CLIP ViT-L/14 if null.
        batch: pictures in the embedding at a time.
        label: offered; the metric's.
        device: offered to the embedding.
        towers: offered to the embedding.

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
    built = _built(embedding, device, towers)
    return Diversity(embedding=built, batch=batch, label=label)


@needing(_needs)
def distance_metric(
    *,
    embedding: Component[Embedding] | None = None,
    batch: int = 16,
    label: str = "distance",
    device: torch.device | str = "cpu",
    towers: Towers = TOWERS,
) -> BaseDistance:
    """Distance of each picture from the base model's of the same noise, in an embedding.

    Args:
        embedding: by its name, with its own keys; OpenAI's CLIP ViT-L/14 if null.
        batch: pictures in the embedding at a time.
        label: offered; the metric's.
        device: offered to the embedding.
        towers: offered to the embedding.

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
    built = _built(embedding, device, towers)
    return BaseDistance(embedding=built, batch=batch, label=label)


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


def _built(
    embedding: Component[Embedding] | None, device: torch.device | str, towers: Towers
) -> Embedding:
    if embedding is None:
        return clip_embedding(device=device, towers=towers)
    return embedding.build(device=device, towers=towers)
