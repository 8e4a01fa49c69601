"""Pictures as points, between which distances mean something."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Protocol
from weakref import WeakKeyDictionary

import attrs
import torch
from torch import Tensor
from torch.nn import functional as F

from flowbp.adapters.dtype_policy import FLOAT32, DtypePolicy
from flowbp.evaluation.metric import PictureSet
from flowbp.rewards.clip import ClipTower, load_clip
from flowbp.rewards.clip_model import VIT_L_14, clip_needs
from flowbp.rewards.needs import Need, needing, package
from flowbp.rewards.towers import TOWERS, Towers


class Embedding(Protocol):
    """Maps pictures to points; any tower with image embeddings.

    Example:
        >>> def mean_colour(images):
        ...     return images.mean((2, 3))
        >>> mean_colour(torch.rand(2, 3, 8, 8)).shape
        torch.Size([2, 3])
    """

    def __call__(self, images: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [0, 1] to (B, D), of any length but 0."""
        ...


def embedding_needs(source: str | os.PathLike[str] = VIT_L_14) -> tuple[Need, ...]:
    """What building `clip_embedding` reads."""
    return package("transformers"), *clip_needs(source)


@needing(embedding_needs)
def clip_embedding(
    *,
    source: str | os.PathLike[str] = VIT_L_14,
    policy: DtypePolicy = FLOAT32,
    device: torch.device | str = "cpu",
    towers: Towers = TOWERS,
) -> Embedding:
    """The picture half of a CLIP model as an embedding.

    Args:
        source: a folder or hub id in CLIPModel layout.
        policy: dtypes of the model.
        device: where it runs.
        towers: the pool in which models are shared.
    """
    loaded = load_clip(source, policy=policy, device=device, towers=towers)
    return ClipTower(**loaded).embed_images


@attrs.frozen(eq=False)
class Points:
    """Pictures as points of one embedding, each embedded once."""

    _known: WeakKeyDictionary[PictureSet, dict[int, Tensor]] = attrs.field(
        factory=WeakKeyDictionary, init=False, repr=False
    )

    def of(self, pictures: PictureSet, embedding: Embedding, *, batch: int) -> Tensor:
        """The points of all pictures of a set."""
        known = self._known.setdefault(pictures, {})
        if batch not in known:
            known[batch] = embedded(pictures.pictures, embedding, batch=batch)
        return known[batch]


@torch.no_grad()
def embedded(pictures: Sequence[Tensor] | Tensor, embedding: Embedding, *, batch: int) -> Tensor:
    """Embed many pictures, some at a time."""
    parts = []
    for start in range(0, len(pictures), batch):
        stop = min(start + batch, len(pictures))
        images = torch.stack([pictures[number] for number in range(start, stop)])
        points = embedding(images)
        if points.ndim != 2 or len(points) != len(images):
            raise ValueError(
                f"`embedding` must give ({len(images)}, D) for {len(images)} pictures, got "
                f"{tuple(points.shape)}"
            )
        points = points.double().cpu()
        if not points.isfinite().all() or points.eq(0).all(-1).any():
            raise ValueError(
                f"`embedding` must give finite points other than 0, and did not for one of the "
                f"pictures {start} to {stop - 1}; look for pictures whose pixels are not finite"
            )
        parts.append(F.normalize(points, dim=-1))
    return torch.cat(parts)
