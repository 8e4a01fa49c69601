"""Numbers of equal prompts taken together: they resemble each other, and are no evidence apart."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import torch
from torch import Tensor

Groups = Sequence[Sequence[float]]
Prompts = Sequence[Sequence[str]]


@attrs.frozen(eq=False)
class Clusters:
    """What bootstraps and tests draw: the numbers of one prompt, together.

    Args:
        sums: (C,) float64, of the numbers of each cluster.
        sizes: (C,) float64, how many they are.

    Example:
        See `clustered`.
    """

    sums: Tensor
    sizes: Tensor

    def __len__(self) -> int:
        return len(self.sums)

    @property
    def mean(self) -> Tensor:
        """Of all numbers, each counted once: 0-dimensional."""
        return self.sums.sum() / self.sizes.sum()

    @property
    def shares(self) -> Tensor:
        """(C,) what each cluster adds to the mean."""
        return self.sums / self.sizes.sum()


def clustered(groups: Groups, prompts: Prompts | None = None) -> list[Clusters]:
    """Cluster the numbers of each group by their prompts.

    Args:
        groups: numbers.
        prompts: of each number of each group; None if all differ.

    Returns:
        The clusters of each group, in order of first appearance.

    Raises:
        ValueError: there are no groups, one is empty, or the prompts are not as many.

    Example:
        >>> (two,) = clustered([[1.0, 2.0, 5.0]], [["a", "b", "a"]])
        >>> two.sums.tolist(), two.sizes.tolist()
        ([6.0, 2.0], [2.0, 1.0])
    """
    if not groups or not all(groups):
        raise ValueError("`groups` is empty or holds an empty one; give a prompt of each")
    if prompts is None:
        return [_each(group) for group in groups]
    if [len(group) for group in groups] != [len(texts) for texts in prompts]:
        raise ValueError(
            f"`prompts` must be one for each number, {[len(group) for group in groups]} in the "
            f"groups, got {[len(texts) for texts in prompts]}"
        )
    return [_together(group, texts) for group, texts in zip(groups, prompts, strict=True)]


def _each(group: Sequence[float]) -> Clusters:
    values = torch.tensor(group, dtype=torch.float64)
    return Clusters(values, torch.ones_like(values))


def _together(group: Sequence[float], texts: Sequence[str]) -> Clusters:
    places = {text: place for place, text in enumerate(dict.fromkeys(texts))}
    index = torch.tensor([places[text] for text in texts])
    each, none = _each(group), torch.zeros(len(places), dtype=torch.float64)
    return Clusters(none.index_add(0, index, each.sums), none.index_add(0, index, each.sizes))
