"""The prompts of the embedded world, and what held-out prompts come from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import attrs
import torch

from flowbp.core._validators import integer
from flowbp.evaluation import HeldOut
from flowbp.limits import COUNT
from flowbp.shapes import PROMPT_KINDS, heldout_prompts, training_prompts
from flowbp.training import PromptList


class HeldOutSource(Protocol):
    """A fixed list of prompts for evaluation."""

    def prompts(self) -> tuple[HeldOut, ...]:
        """The prompts, always the same ones in the same order."""
        ...


@attrs.frozen
class ShapesPrompts:
    """The training captions of the embedded world, the six kinds in equal parts.

    Each round yields one caption of every kind, the kinds in random order. Within a kind the
    captions are gone through as in `PromptList`. Drawn evenly over all captions instead, 7 of 10
    would be about positions.

    Example:
        >>> from itertools import islice
        >>> stream = ShapesPrompts().stream(torch.Generator().manual_seed(0))
        >>> len(set(islice(stream, 12)))
        12
    """

    def __len__(self) -> int:
        return len(training_prompts())

    def stream(self, generator: torch.Generator) -> Iterator[str]:
        """Captions without end, in an order that `generator` alone decides."""
        kinds = [
            PromptList(prompt.text for prompt in training_prompts() if prompt.kind == kind)
            for kind in PROMPT_KINDS
        ]
        streams = [texts.stream(generator) for texts in kinds]
        while True:
            for index in torch.randperm(len(streams), generator=generator).tolist():
                yield next(streams[index])


@attrs.frozen
class ShapesHeldOut:
    """Held-out captions of the embedded world, spread evenly over the six kinds.

    The kinds take turns. Within a kind the captions are evenly spaced over the list; a kind that
    has fewer than its share starts again, and a caption that comes again has another noise.

    Args:
        count: how many.

    Raises:
        ValueError: `count` is below 1.

    Example:
        >>> [prompt.kind for prompt in ShapesHeldOut(7).prompts()].count("single_object")
        2
    """

    count: int = attrs.field(default=192, validator=integer(1, COUNT))

    def prompts(self) -> tuple[HeldOut, ...]:
        """The captions, the kinds taking turns."""
        kinds = [
            _even([prompt for prompt in heldout_prompts() if prompt.kind == kind], share)
            for kind, share in zip(PROMPT_KINDS, self._shares(), strict=True)
        ]
        turns = len(PROMPT_KINDS)
        return tuple(kinds[i % turns][i // turns] for i in range(self.count))

    def _shares(self) -> list[int]:
        whole, rest = divmod(self.count, len(PROMPT_KINDS))
        return [whole + (place < rest) for place in range(len(PROMPT_KINDS))]


def _even(prompts: Sequence[HeldOut], share: int) -> list[HeldOut]:
    if share > len(prompts):
        return [prompts[i % len(prompts)] for i in range(share)]
    return [prompts[i * len(prompts) // share] for i in range(share)]
