"""The prompts of a run as they are used up, and where in them it is."""

from __future__ import annotations

import hashlib

import torch

from flowbp.components import calling
from flowbp.training.prompts import PromptSource, drawn


class PromptFeed:
    """Hands out the prompts of a source and remembers how many there were, and which.

    A source cannot be told to start in the middle, but its order depends on the generator alone:
    going through the same number of prompts again leads to the same place.

    Args:
        source: of the prompts.
        generator: decides their order.

    Example:
        >>> from flowbp.training import PromptList
        >>> source = PromptList(["a", "b", "c"])
        >>> feed, again = (PromptFeed(source, torch.Generator().manual_seed(0)) for _ in range(2))
        >>> prompts = feed.take(5)
        >>> again.go_to(**feed.position())
        >>> feed.take(2) == again.take(2)
        True
    """

    def __init__(self, source: PromptSource, generator: torch.Generator) -> None:
        with calling("prompt source", getattr(source, "source", source)):
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

    def position(self) -> dict[str, int | str]:
        """How many prompts were handed out, and a digest of them; what `go_to` wants."""
        return {"taken": self._taken, "digest": self._digest.hexdigest()}

    def go_to(self, taken: int, digest: str) -> None:
        """Go through prompts until as many were handed out.

        Args:
            taken: how many; not fewer than already were.
            digest: of all of them.

        Raises:
            ValueError: they are not the same prompts.
        """
        self.take(taken - self._taken)
        if self._digest.hexdigest() != digest:
            raise ValueError(
                f"`prompts` gives other texts than before: the first {taken} are not those that "
                "the checkpoint was trained on; give the run its former file of prompts"
            )
