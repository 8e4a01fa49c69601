"""What judges a model by all of its pictures, and beside those of the base model."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import attrs
from torch import Tensor

from flowbp.evaluation.validators import not_empty

if TYPE_CHECKING:
    from flowbp.evaluation.evaluate import HeldOut
    from flowbp.evaluation.metric import Metric

_OF_SETS = {"model", "base"}


def _tuple(values: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(values)


@attrs.frozen(kw_only=True, eq=False)
class PictureSet:
    """All n pictures of one model.

    Args:
        label: of the model.
        prompts: of each picture.
        numbers: place of each picture's prompt in the list, from 0.
        seeds: of each picture; together with the number it fixes the noise.
        pictures: (3, H, W) in [0, 1] each; any sequence, such as one that reads files when asked.

    Raises:
        ValueError: none, other lengths, or two pictures of one number and seed.

    Example:
        >>> import torch
        >>> from flowbp.evaluation import HeldOutPrompt
        >>> prompt = HeldOutPrompt("a circle")
        >>> pictures = PictureSet(label="base", prompts=[prompt] * 2, numbers=[0, 0], seeds=[1, 2],
        ...                       pictures=torch.rand(2, 3, 8, 8))
        >>> pictures.keys
        ((0, 1), (0, 2))
    """

    label: str = attrs.field(validator=not_empty)
    prompts: tuple[HeldOut, ...] = attrs.field(converter=_tuple, validator=not_empty)
    numbers: tuple[int, ...] = attrs.field(converter=_tuple)
    seeds: tuple[int, ...] = attrs.field(converter=_tuple)
    pictures: Sequence[Tensor] | Tensor = attrs.field(repr=False)

    def __attrs_post_init__(self) -> None:
        for name in ("numbers", "seeds", "pictures"):
            if len(getattr(self, name)) != len(self.prompts):
                raise ValueError(
                    f"`{name}` must be as many as the {len(self.prompts)} prompts, got "
                    f"{len(getattr(self, name))}"
                )
        seen = set()
        for key, prompt in zip(self.keys, self.prompts, strict=True):
            if key in seen:
                raise ValueError(
                    f"`seeds` must differ between pictures of one prompt, got {key[1]} twice for "
                    f"{prompt.text!r}"
                )
            seen.add(key)

    @property
    def keys(self) -> tuple[tuple[int, int], ...]:
        """Number and seed of each picture, by which models are compared."""
        return tuple(zip(self.numbers, self.seeds, strict=True))


class SetMetric(Protocol):
    """Judges a model by all of its pictures, and beside those of the base model."""

    def __call__(self, model: PictureSet, base: PictureSet) -> Mapping[str, Tensor]:
        """Judge a model.

        Args:
            model: its n pictures.
            base: those of the base model; the base model itself is given twice.

        Returns:
            By the name of a column (n,) numbers each, a row for each picture of `model`; NaN where
            the column says nothing of it.
        """


def is_of_sets(metric: Metric | SetMetric) -> bool:
    """Whether a metric is called with all pictures of a model and of the base.

    Args:
        metric: any, by the arguments that it is called with.

    Returns:
        True for a `SetMetric`.

    Example:
        >>> is_of_sets(lambda model, base: {}), is_of_sets(lambda images, prompts: {})
        (True, False)
    """
    return set(inspect.signature(metric).parameters) == _OF_SETS
