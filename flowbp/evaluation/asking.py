"""Asking a metric for figures, at which pictures it fails, and what it may return."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar, cast

import attrs
import torch
from torch import Tensor

from flowbp.components import calling, shown, wrong
from flowbp.evaluation.scoring import numbers

_LONGEST = 200
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


def asked_columns(
    metric: Any,
    call: Callable[[], Any],
    texts: Sequence[str],
    *,
    label: str,
    called: Callable[[str], str] = str,
) -> dict[str, Tensor]:
    """Call a metric, and refuse what is no set of columns.

    Args:
        metric: that is called, for messages.
        call: calls it with B pictures.
        texts: their prompts.
        label: of the metric, which a column has that comes without a name.
        called: the name of a column among those of all metrics.

    Returns:
        (B,) float64 on the CPU by the name of a column; NaN says nothing of a picture.

    Raises:
        ComponentError: the metric raised something, or returned neither columns by name nor one
            number for each picture, or an infinite one.
        Exception: the metric's own where memory ran out.

    Example:
        >>> bright = lambda images, prompts: images.mean((1, 2, 3))
        >>> call = lambda: bright(torch.ones(1, 3, 2, 2), ["a circle"])
        >>> asked_columns(bright, call, ["a circle"], label="bright")
        {'bright': tensor([1.], dtype=torch.float64)}
    """
    kind = f"metric `{label}`"
    with calling(kind, metric, texts):
        found = call()
    if isinstance(found, Tensor):
        found = {label: found}
    if not isinstance(found, Mapping):
        must = "must return one number per picture as a tensor, or such columns by name"
        raise wrong(kind, metric, f"{must}, got {shown(found)}", texts)
    by_name: dict[str, Tensor] = {}
    for name, values in found.items():
        if not isinstance(name, str) or not name.isprintable() or not 0 < len(name) <= _LONGEST:
            must = f"must name its columns by printable texts of at most {_LONGEST} characters"
            raise wrong(kind, metric, f"{must}, got {shown(name)}", texts)
        if called(name) in by_name:
            must = f"returned two columns that would be called {called(name)!r}"
            raise wrong(kind, metric, must, texts)
        try:
            by_name[called(name)] = numbers(name, values, texts)
        except ValueError as error:
            raise wrong(kind, metric, f"returned a wrong column: {error}", texts) from None
        for value, text in zip(by_name[called(name)].tolist(), texts, strict=True):
            if value in (torch.inf, -torch.inf):
                must = f"must return finite numbers in `{called(name)}`"
                raise wrong(kind, metric, f"{must}, got {value}", [text])
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
