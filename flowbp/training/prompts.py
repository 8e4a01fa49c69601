"""Where training prompts come from."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import attrs
import torch

from flowbp.component_errors import calling, shown, wrong
from flowbp.validators import integer


class PromptSource(Protocol):
    """An endless supply of prompts.

    Example:
        >>> class Counted:
        ...     def stream(self, generator):
        ...         for number in itertools.count(1):
        ...             yield f"{number} circles"
        >>> list(itertools.islice(Counted().stream(torch.Generator()), 2))
        ['1 circles', '2 circles']
    """

    def stream(self, generator: torch.Generator) -> Iterator[str]:
        """Prompts without end, in an order that `generator` alone decides."""


def drawn(source: object, stream: Iterator[str], count: int) -> list[str]:
    """The next prompts of a source's stream."""
    with calling("prompt source", source):
        prompts = list(itertools.islice(stream, count))
    for prompt in prompts:
        if not isinstance(prompt, str):
            raise wrong("prompt source", source, f"must give texts, got {shown(prompt)}")
    if len(prompts) < count:
        problem = f"must give prompts without end, and ended {count - len(prompts)} too early"
        raise wrong("prompt source", source, problem)
    return prompts


def as_texts(value: Iterable[str]) -> tuple[str, ...]:
    """Prompts as a tuple; a single text is refused, for it would be read letter by letter."""
    if isinstance(value, str):
        raise TypeError(f"prompts must be a list of texts, got the single text {value!r}")
    return tuple(value)


def not_blank(_: Any, attribute: attrs.Attribute[Any], value: tuple[str, ...]) -> None:
    """A validator: at least one prompt, and none of them blank."""
    if not value:
        raise ValueError(f"`{attribute.name}` must hold at least one prompt, got none")
    for index, text in enumerate(value):
        if not isinstance(text, str) or not text.strip():
            raise ValueError(
                f"`{attribute.name}` must hold no blank prompts, got {text!r} at position {index} "
                f"of {len(value)}; remove it"
            )


@attrs.frozen
class PromptList:
    """A list of prompts, gone through again and again, shuffled anew each time.

    Args:
        texts: the prompts; one that stands twice is drawn twice as often.
    """

    texts: tuple[str, ...] = attrs.field(converter=as_texts, validator=not_blank)

    def stream(self, generator: torch.Generator) -> Iterator[str]:
        """Each epoch is a new permutation of the list."""
        while True:
            for index in torch.randperm(len(self.texts), generator=generator).tolist():
                yield self.texts[index]


@attrs.frozen(kw_only=True)
class Position:
    """How many prompts a feed has handed out, and a digest of them."""

    taken: int = attrs.field(validator=integer(0))
    digest: str


class PromptFeed:
    """Hands out the prompts of a source and remembers how many there were, and which.

    A source cannot start in the middle, but its order depends on the generator alone: going
    through the same number of prompts again leads to the same place.
    """

    def __init__(self, source: PromptSource, generator: torch.Generator) -> None:
        with calling("prompt source", source):
            self._stream = iter(source.stream(generator))
        self._source = source
        self._taken = 0
        self._digest = hashlib.sha256()

    def take(self, count: int) -> list[str]:
        """The next prompts."""
        prompts = drawn(self._source, self._stream, count)
        for prompt in prompts:
            self._digest.update(prompt.encode(errors="surrogatepass") + b"\0")
        self._taken += count
        return prompts

    def position(self) -> Position:
        """Where the feed is."""
        return Position(taken=self._taken, digest=self._digest.hexdigest())

    def go_to(self, position: Position) -> None:
        """Go through prompts until as many were handed out; they must have this digest."""
        self.take(position.taken - self._taken)
        if self._digest.hexdigest() != position.digest:
            raise ValueError(
                f"`prompts` gives other texts than before: the first {position.taken} are not "
                "those that the checkpoint was trained on; give the run its former file of prompts"
            )
