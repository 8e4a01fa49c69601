"""UnifiedReward: a vision-language model that is asked how well a picture fits its prompt."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Protocol

import attrs
import torch
from torch import Tensor

from flowbp.adapters.policy import DtypePolicy
from flowbp.evaluation import HeldOut
from flowbp.evaluation.validators import not_empty
from flowbp.metrics.answer import final_score
from flowbp.metrics.chat_source import load_vision_chat
from flowbp.metrics.vision_chat import BFLOAT16
from flowbp.rewards.templates import PLACE, one_place, text_or_file
from flowbp.rewards.towers import TOWERS, Towers

_WHERE = (
    "the question that it was trained with is in the inference examples for scoring a picture of "
    f"github.com/CodeGoat24/UnifiedReward; write it with {PLACE} where the prompt goes"
)


class Answering(Protocol):
    """Answers questions about pictures."""

    def __call__(self, images: Tensor, questions: Sequence[str]) -> Sequence[str]:
        """Pictures (B, 3, H, W) in [0, 1] and B questions to B answers."""
        ...


def read_question(value: str | os.PathLike[str] | None) -> str:
    """What a judge is asked, given as text or as a file.

    It is not shipped, as its wording belongs to others.

    Args:
        value: a text with ``{prompt}`` in it, or the path of a file that holds one.

    Returns:
        The text.

    Raises:
        ValueError: nothing is given, or no such file.

    Example:
        >>> read_question("Rate this picture of {prompt}, and end with Final Score:")
        'Rate this picture of {prompt}, and end with Final Score:'
    """
    return text_or_file(value, argument="question", asked="UnifiedReward", where=_WHERE)


@attrs.frozen(kw_only=True, eq=False)
class UnifiedReward:
    """The score from 1 to 5 that a vision-language model gives a picture for its prompt.

    The model is asked about each picture, answers greedily, and what counts is the number after
    ``Final Score:``. An answer without one stops the evaluation with its words: a zero in its
    place would count as a very bad picture.

    Args:
        question: What is asked, with ``{prompt}`` where the prompt goes, as text or the path of a
            file. It must be given; an error says where it is.
        answering: Answers it.
        label: Name of the column.

    Raises:
        ValueError: `question` lacks, or has no place for the prompt, or `label` is empty.

    Example:
        >>> from flowbp.evaluation import HeldOutPrompt
        >>> def answering(images, questions):
        ...     return ["Two legs too many. Final Score: 2"] * len(images)
        >>> judge = UnifiedReward(question="How good a {prompt} is it?", answering=answering)
        >>> judge(torch.rand(1, 3, 8, 8), [HeldOutPrompt("a dog")])
        {'UnifiedReward': tensor([2.])}

    Source: Wang et al., "Unified Reward Model for Multimodal Understanding and Generation", arXiv
    2503.05236.
    """

    question: str = attrs.field(
        default=None, converter=read_question, repr=False, validator=one_place
    )
    answering: Answering
    label: str = attrs.field(default="UnifiedReward", validator=not_empty)

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike[str],
        *,
        question: str | os.PathLike[str] | None = None,
        tokens: int = 4096,
        batch: int = 1,
        label: str = "UnifiedReward",
        policy: DtypePolicy = BFLOAT16,
        device: torch.device | str = "cpu",
        towers: Towers = TOWERS,
    ) -> UnifiedReward:
        """Load the model.

        Args:
            source: ``CodeGoat24/UnifiedReward-2.0-qwen-7b``, another size of it, or a folder.
            question: What is asked; see the class.
            tokens: Longest answer.
            batch: Pictures in the model at a time; it changes answers by rounding alone.
            label: Name of the column.
            policy: Dtypes of the model.
            device: Where it runs.
            towers: With whom it is shared.

        Returns:
            The metric.

        Raises:
            ModuleNotFoundError: transformers or jinja2 is not installed.
            FileNotFoundError: The hub cannot be reached, or a folder lacks files.
            ValueError: `question` lacks, or has no place for the prompt; a model of another
                family, or weights that do not fit.
        """
        # Before the model, which takes minutes to load.
        wording = read_question(question)
        one_place(None, attrs.fields(cls).question, wording)
        chat = load_vision_chat(
            source, tokens=tokens, batch=batch, policy=policy, device=device, towers=towers
        )
        return cls(question=wording, answering=chat, label=label)

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
