"""The protocols of what judges pictures: single ones, or all of a model's."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import attrs
from torch import Tensor

from flowbp.evaluation.held_out_prompts import HeldOut
from flowbp.validators import not_empty


class Judge(Protocol):
    """Says how good pictures are, in numbers or by 1 and 0; never a training signal.

    Example:
        >>> import torch
        >>> def is_bright(images, prompts):
        ...     return (images.mean((1, 2, 3)) > 0.5).double()
        >>> is_bright(torch.full((1, 3, 8, 8), 0.75), ["a"])
        tensor([1.], dtype=torch.float64)
    """

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Judge pictures ``(B, 3, H, W)`` in [0, 1]; returns ``(B,)``, where more is better.

        Numbers of which all are 1 (pass) or 0 (fail) are verdicts, and shown in percent.
        """


class Metric(Protocol):
    """Judges pictures; need not be differentiable.

    An attribute `scales` may declare what the numbers of its columns mean, see `Scale`, and an
    attribute `totals` which columns have their means averaged.

    Example:
        >>> import torch
        >>> def extremes(images, prompts):
        ...     return {"darkest": images.amin((1, 2, 3)), "brightest": images.amax((1, 2, 3))}
        >>> extremes(torch.full((1, 3, 8, 8), 0.75), ["a"])
        {'darkest': tensor([0.7500]), 'brightest': tensor([0.7500])}
    """

    def __call__(self, images: Tensor, prompts: Sequence[HeldOut]) -> Mapping[str, Tensor]:
        """Judge each picture.

        Args:
            images: (B, 3, H, W) in [0, 1].
            prompts: B prompts, each with its kind.

        Returns:
            By the name of a column (B,) numbers each, NaN where the column does not
            judge a picture; the same columns for every batch.
        """


def as_tuple(values: Iterable[Any]) -> tuple[Any, ...]:
    """A tuple, as a converter: mypy does not understand `tuple` itself in its place."""
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
    prompts: tuple[HeldOut, ...] = attrs.field(converter=as_tuple, validator=not_empty)
    numbers: tuple[int, ...] = attrs.field(converter=as_tuple)
    seeds: tuple[int, ...] = attrs.field(converter=as_tuple)
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
    """Judges a model by all of its pictures, and beside those of the base model.

    Example:
        >>> import torch
        >>> def brighter(model, base):
        ...     pairs = zip(model.pictures, base.pictures, strict=True)
        ...     return {"brighter": torch.stack([mine.mean() - its.mean() for mine, its in pairs])}
        >>> from flowbp.evaluation import HeldOutPrompt
        >>> of = dict(label="a", prompts=[HeldOutPrompt("a")], numbers=[0], seeds=[1])
        >>> grey = PictureSet(pictures=torch.full((1, 3, 8, 8), 0.5), **of)
        >>> white = PictureSet(pictures=torch.ones(1, 3, 8, 8), **of)
        >>> brighter(white, grey)
        {'brighter': tensor([0.5000])}
    """

    def __call__(self, model: PictureSet, base: PictureSet) -> Mapping[str, Tensor]:
        """Judge a model.

        Args:
            model: its n pictures.
            base: those of the base model; the base model itself is given twice.

        Returns:
            By the name of a column (n,) numbers each, a row for each picture of `model`; NaN where
            the column does not judge it.
        """


def is_of_sets(metric: Metric | SetMetric) -> bool:
    """Whether a metric is called with all pictures of a model and of the base."""
    return set(inspect.signature(metric).parameters) == {"model", "base"}


@attrs.frozen(kw_only=True)
class Scale:
    """What the numbers of a column mean; metrics declare it in a mapping `scales` by column.

    Without it, a column holds plain numbers of which more is better.

    Args:
        sign: 1 where more is better, -1 where less is, and 0 where neither is: such a column has
            no gain, and is not tested for one.
        verdict: 1 is a picture that passes and 0 one that fails; means are written in percent,
            unless some picture has another number.

    Raises:
        ValueError: another sign.

    Example:
        >>> Scale(sign=-1).verdict
        False
    """

    sign: int = attrs.field(default=1)
    verdict: bool = False

    @sign.validator
    def _known(self, _: attrs.Attribute[int], value: int) -> None:
        if value not in (-1, 0, 1):
            raise ValueError(
                f"`sign` must be 1 (more is better), -1 (less is better) or 0, got {value!r}"
            )
