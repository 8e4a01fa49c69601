"""The prompts of the embedded world, and what held-out prompts come from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import attrs
import torch

from flowbp.evaluation import HeldOut
from flowbp.limits import COUNT
from flowbp.shapes import PROMPT_KINDS, heldout_prompts, training_prompts
from flowbp.training import PromptList
from flowbp.validators import integer


class HeldOutSource(Protocol):
    """A fixed list of prompts for evaluation."""

    def prompts(self) -> tuple[HeldOut, ...]:
        """The prompts, always the same ones in the same order."""
        ...


@attrs.frozen
class ShapesPrompts:
    """The training captions of the embedded world, the six kinds in equal parts."""

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
    """Held-out captions of the embedded world, spread evenly over the six kinds."""

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
