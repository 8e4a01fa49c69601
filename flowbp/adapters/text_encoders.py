"""What a model family tells of its text encoders, so that others can keep their embeddings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import attrs
import torch

if TYPE_CHECKING:
    from flowbp.adapters.text_tower import TextTower


class CutPromptWarning(UserWarning):
    """A prompt is longer than what the text encoders read."""


_SHOWN = 60


def _itself(prompt: str) -> str:
    return prompt


@attrs.frozen
class CutPrompt:
    """A prompt of which the end is not read.

    Args:
        prompt: The whole of it.
        tokens: How many it has, for the encoder that reads most of it.
        read: How many of them are read.

    Example:
        >>> str(CutPrompt("a circle beside a square", tokens=7, read=4))
        "'a circle beside a square' (7 tokens, 4 read)"
    """

    prompt: str
    tokens: int
    read: int

    def __str__(self) -> str:
        shown = self.prompt if len(self.prompt) <= _SHOWN else f"{self.prompt[:_SHOWN]}…"
        return f"{shown!r} ({self.tokens} tokens, {self.read} read)"


@attrs.frozen(kw_only=True, eq=False)
class TextEncoders:
    """The text encoders of a backbone and all that its embeddings depend on besides.

    Args:
        family: Of the model; two families may use the same encoder in other ways.
        towers: Encoder with tokenizer by the component's name.
        read: Tower to the number of tokens that it reads; a prompt counts as cut if all of these
            cut it. Towers that only repeat what another reads in full are left out.
        facts: Whatever else changes the embeddings: lengths, layers, dtypes.
        device: Where the encoders run.
        written: The text that a prompt becomes before it is cut into tokens.
        cure: What to do about prompts that are cut.

    Example:
        See `WithTextEncoders`; ``backbone.text_encoders.cut(["a circle"])`` is empty.
    """

    family: str
    towers: Mapping[str, TextTower]
    read: Mapping[str, int]
    facts: Mapping[str, object]
    device: torch.device
    written: Callable[[str], str] = _itself
    cure: str = "shorten them"

    def cut(self, prompts: Sequence[str]) -> tuple[CutPrompt, ...]:
        """The prompts that are longer than what is read of them.

        Args:
            prompts: Any number of them.

        Returns:
            Those, in their order.
        """
        remaining = [CutPrompt(prompt, 0, 0) for prompt in prompts]
        for name, length in self.read.items():
            if not remaining:
                break
            lengths = self.towers[name].lengths([self.written(each.prompt) for each in remaining])
            remaining = [
                CutPrompt(each.prompt, tokens, length) if length > each.read else each
                for each, tokens in zip(remaining, lengths, strict=True)
                if tokens > length
            ]
        return tuple(remaining)

    def release(self) -> None:
        """Free the memory that the encoders take on their device; they come back when needed."""
        for tower in self.towers.values():
            tower.held.release()
        self._give_back()

    @contextmanager
    def borrowed(self) -> Iterator[None]:
        """Context after which the encoders that were released are so again.

        Yields:
            Nothing; whoever encodes in it brings them back for as long.
        """
        away = [tower.held for tower in self.towers.values() if tower.held.released]
        try:
            yield
        finally:
            for held in away:
                held.release()
            if away:
                self._give_back()

    def _give_back(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


@runtime_checkable
class WithTextEncoders(Protocol):
    """A backbone whose embeddings can be kept on disk, and its encoders released.

    Without it a backbone works as well: its embeddings are then kept in memory only.

    Example:
        >>> from flowbp.shapes.embedded import embedded_backbone
        >>> isinstance(embedded_backbone(), WithTextEncoders)
        True
    """

    @property
    def text_encoders(self) -> TextEncoders:
        """The encoders of `encode`."""
        ...
