"""A judge that is asked about each picture in words, and answers with a score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import attrs
import torch
from torch import Tensor

from flowbp.evaluation import HeldOut
from flowbp.evaluation.validators import not_empty
from flowbp.metrics.answer import final_score
from flowbp.rewards.templates import PLACE, one_place


class Answering(Protocol):
    """Answers questions about pictures."""

    def __call__(self, images: Tensor, questions: Sequence[str]) -> Sequence[str]:
        """Pictures (B, 3, H, W) in [0, 1] and B questions to B answers."""
        ...


@attrs.frozen(eq=False)
class AskedMetric:
    """The score from 1 to 5 after ``Final Score:`` in the answer to a question.

    An answer without one stops the evaluation with its words: a zero in its place would count as a
    very bad picture.

    Args:
        question: What is asked, with ``{prompt}`` where the prompt goes.
        answering: Answers it.
        label: Name of the column.

    Raises:
        ValueError: `question` has no place for the prompt or several, or `label` is empty.

    Example:
        >>> from flowbp.evaluation import HeldOutPrompt
        >>> def answering(images, questions):
        ...     return ["Two legs too many. Final Score: 2"] * len(images)
        >>> judge = AskedMetric("How good a picture of {prompt} is it?", answering, "judge")
        >>> judge(torch.rand(1, 3, 8, 8), [HeldOutPrompt("a dog")])
        {'judge': tensor([2.])}
    """

    question: str = attrs.field(repr=False, validator=one_place)
    answering: Answering
    label: str = attrs.field(validator=not_empty)

    @torch.no_grad()
    def __call__(self, images: Tensor, prompts: Sequence[HeldOut]) -> Mapping[str, Tensor]:
        """Judge pictures.

        Args:
            images: (B, 3, H, W) in [0, 1].
            prompts: B prompts.

        Returns:
            (B,) from 1 to 5 under the label.

        Raises:
            UnreadableAnswer: An answer without a score; it is quoted.
            ValueError: Images of another shape, or another number of prompts.
        """
        texts = [prompt.text for prompt in prompts]
        answers = self.answering(images, [self.question.replace(PLACE, text) for text in texts])
        scores = [
            final_score(answer, prompt=text) for answer, text in zip(answers, texts, strict=True)
        ]
        return {self.label: torch.tensor(scores)}
