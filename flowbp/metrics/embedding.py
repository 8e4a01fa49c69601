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

from flowbp.adapters.policy import FLOAT32, DtypePolicy
from flowbp.evaluation.set_metric import PictureSet
from flowbp.rewards.clip_source import channel_statistics, clip_needs, load_clip_model
from flowbp.rewards.clip_tower import ClipTower
from flowbp.rewards.clipscore import VIT_L_14
from flowbp.rewards.needs import Need, needing, package
from flowbp.rewards.towers import TOWERS, Towers


class Embedding(Protocol):
    """Maps pictures to points; any tower with image embeddings."""

    def __call__(self, images: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [0, 1] to (B, D), of any length but 0."""
        ...


def embedding_needs(source: str | os.PathLike[str] = VIT_L_14) -> tuple[Need, ...]:
    """What building `clip_embedding` reads.

    Args:
        source: A folder or hub id in CLIPModel layout.

    Returns:
        The package and the model.

    Example:
        >>> from flowbp.shapes.embedded import reward_folder
        >>> [need.tower == reward_folder() for need in embedding_needs(reward_folder())]
        [False, True]
    """
    return package("transformers"), *clip_needs(source)


@needing(embedding_needs)
def clip_embedding(
    *,
    source: str | os.PathLike[str] = VIT_L_14,
    policy: DtypePolicy = FLOAT32,
    device: torch.device | str = "cpu",
    towers: Towers = TOWERS,
) -> ClipTower:
    """The picture half of a CLIP model as an embedding.

    Args:
        source: A folder or hub id in CLIPModel layout.
        policy: Dtypes of the model.
        device: Where it runs.
        towers: With whom it is shared.

    Returns:
        The embedding, of unit length.

    Raises:
        ModuleNotFoundError: transformers is not installed.
        FileNotFoundError: The hub cannot be reached, or a folder lacks files.
        ValueError: Weights that do not fit.

    Example:
        >>> from flowbp.shapes.embedded import reward_folder
        >>> clip_embedding(source=reward_folder())(torch.rand(2, 3, 64, 64)).shape
        torch.Size([2, 128])
    """
    mean, std = channel_statistics(source)
    model = load_clip_model(source, dtype=policy.weights, device=device, towers=towers)
    return ClipTower(model=model, mean=mean, std=std, policy=policy, device=torch.device(device))


@attrs.frozen(eq=False)
class Points:
    """Pictures as points of one embedding, each embedded once.

    What is known is known by the picture set itself, and forgotten with it. Other batches round
    otherwise, and are embedded for themselves.

    Example:
        >>> from flowbp.evaluation import HeldOutPrompt, PictureSet
        >>> own = PictureSet(label="base", prompts=[HeldOutPrompt("a")], numbers=[0], seeds=[1],
        ...                  pictures=torch.ones(1, 3, 4, 4))
        >>> points = Points()
        >>> first = points.of(own, lambda images: images.mean((2, 3)), batch=4)
        >>> points.of(own, lambda images: 1 / 0, batch=4) is first
        True
    """

    _known: WeakKeyDictionary[PictureSet, dict[int, Tensor]] = attrs.field(
        factory=WeakKeyDictionary, init=False, repr=False
    )

    def of(self, pictures: PictureSet, embedding: Embedding, *, batch: int) -> Tensor:
        """The points of all pictures of a set.

        Args:
            pictures: n of them.
            embedding: the same each time.
            batch: pictures at a time.

        Returns:
            (n, D) as of `embedded`.

        Raises:
            ValueError: as `embedded`.
        """
        known = self._known.setdefault(pictures, {})
        if batch not in known:
            known[batch] = embedded(pictures.pictures, embedding, batch=batch)
        return known[batch]


@torch.no_grad()
def embedded(pictures: Sequence[Tensor] | Tensor, embedding: Embedding, *, batch: int) -> Tensor:
    """Embed many pictures, some at a time.

    Args:
        pictures: n of (3, H, W), read one after the other.
        embedding: any.
        batch: pictures at a time.

    Returns:
        (n, D) of length one, float64 on the CPU.

    Raises:
        ValueError: the embedding gives something else, or numbers that are not finite.

    Example:
        >>> embedded(torch.ones(3, 3, 2, 2), lambda images: images.mean((2, 3)), batch=2).shape
        torch.Size([3, 3])
    """
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
