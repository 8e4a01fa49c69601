"""Asking a metric for figures, at which pictures it fails, and what it may return."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar, cast

import attrs
import torch
from torch import Tensor

from flowbp.evaluation.scoring import numbers

_Picture = TypeVar("_Picture")
_Found = TypeVar("_Found")


@attrs.frozen(eq=False)
class Outcome(Generic[_Picture, _Found]):
    """What asking for some pictures together came to.

    Args:
        of: which they are.
        found: what was found of them; None where `error` is not.
        error: what was raised; None where nothing was.

    Example:
        See `outcomes`.
    """

    of: Sequence[_Picture]
    found: _Found | None
    error: Exception | None

    def result(self) -> _Found:
        """What was found.

        Raises:
            Exception: what was raised instead.
        """
        if self.error is not None:
            raise self.error
        return cast(_Found, self.found)


def outcomes(
    judge: Callable[[Tensor, Sequence[_Picture]], _Found],
    images: Tensor,
    of: Sequence[_Picture],
) -> Iterator[Outcome[_Picture, _Found]]:
    """Ask for some pictures together and, where that fails, for each of them alone.

    Nothing is asked for before it is taken from the iterator, so that who need not know more may
    stop, or make room first.

    Args:
        judge: of pictures (B, 3, H, W) and which they are; what it raises is its failure.
        images: (B, 3, H, W) in [0, 1].
        of: which they are.

    Yields:
        The outcome of all together, and if it is a failure that of each.

    Example:
        >>> def one_at_a_time(images, names):
        ...     (name,) = names
        ...     return name.upper()
        >>> asked = outcomes(one_at_a_time, torch.ones(2, 3, 2, 2), ["a", "b"])
        >>> type(next(asked).error).__name__, [each.found for each in asked]
        ('ValueError', ['A', 'B'])
    """
    together = _outcome(judge, images, of)
    yield together
    if together.error is None:
        return
    for number in range(len(of)):
        yield _outcome(judge, images[number : number + 1], of[number : number + 1])


def _outcome(
    judge: Callable[[Tensor, Sequence[_Picture]], _Found], images: Tensor, of: Sequence[_Picture]
) -> Outcome[_Picture, _Found]:
    # A frame of its own, as whoever lets go of an error's frames would end one that goes on.
    try:
        return Outcome(of, judge(images, of), None)
    # A metric is code of others, and whatever it raises is its failure.
    except Exception as error:
        return Outcome(of, None, error)


def columns(
    found: Any,
    texts: Sequence[str],
    *,
    metric: str = "it",
    called: Callable[[str], str] = str,
) -> dict[str, Tensor]:
    """Refuse what is no set of columns.

    Args:
        found: what a metric returned of B pictures.
        texts: their prompts.
        metric: what messages call it.
        called: the name of a column among those of all metrics.

    Returns:
        (B,) float64 on the CPU by the name of a column; NaN says nothing of a picture.

    Raises:
        ValueError: `found` is no mapping, or a column is no number for each picture, or infinite.

    Example:
        >>> columns({"bright": torch.ones(1)}, ["a circle"])
        {'bright': tensor([1.], dtype=torch.float64)}
        >>> columns(torch.ones(1), ["a circle"], metric="`mine`")
        Traceback (most recent call last):
            ...
        ValueError: `mine` must return columns by name, got a Tensor; a reward as a metric is \
{name: reward, reward: {name: ...}}
    """
    if not isinstance(found, Mapping):
        raise ValueError(
            f"{metric} must return columns by name, got a {type(found).__name__}; a reward as a "
            "metric is {name: reward, reward: {name: ...}}"
        )
    by_name = {called(name): numbers(name, values, texts) for name, values in found.items()}
    for name, values in by_name.items():
        for value, text in zip(values.tolist(), texts, strict=True):
            if value in (torch.inf, -torch.inf):
                raise ValueError(f"`{name}` of the prompt {text!r} must be finite, got {value}")
    return by_name


@attrs.frozen(eq=False)
class Names:
    """The names of a metric's columns, of which the first that are told decide.

    Example:
        >>> names = Names()
        >>> [names.agree(each) for each in (["a", "b"], ["b", "a"], ["a"])]
        [True, True, False]
        >>> names.first
        ['a', 'b']
    """

    _told: list[list[str]] = attrs.field(factory=list, init=False)

    @property
    def first(self) -> list[str]:
        """Those told first; none before any are."""
        return self._told[0] if self._told else []

    def agree(self, names: Iterable[str]) -> bool:
        """Whether names are those told first, in whatever order.

        Args:
            names: of the columns of some pictures.

        Returns:
            False if there is another, or one lacks.
        """
        told = list(names)
        if not self._told:
            self._told.append(told)
        return set(told) == set(self.first)
