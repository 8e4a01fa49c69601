"""UnifiedReward: a vision-language model asked how well a picture fits its prompt."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence

import attrs
import torch
from torch import Tensor

from flowbp.adapters.dtype_policy import CPU, DtypePolicy
from flowbp.evaluation import HeldOut
from flowbp.evaluation.metrics.vision_chat import BFLOAT16, chat_needs, load_vision_chat
from flowbp.limits import BATCH, COUNT
from flowbp.place import located
from flowbp.rewards.needs import Need
from flowbp.rewards.templates import PLACE, one_place, text_or_file
from flowbp.rewards.towers import TOWERS, Towers
from flowbp.validators import integer, not_empty

_WHERE = (
    "the question that it was trained with is in the inference examples for scoring a picture of "
    f"github.com/CodeGoat24/UnifiedReward; write it with {PLACE} where the prompt goes"
)


def read_question(value: str | os.PathLike[str] | None) -> str:
    """The question that a judge is asked, given as text or as a file."""
    return text_or_file(value, argument="question", asked="UnifiedReward", where=_WHERE)


@attrs.frozen(kw_only=True, eq=False)
class UnifiedReward:
    """The score from 1 to 5 that a vision-language model gives a picture for its prompt.

    The model is asked about each picture, answers greedily, and what counts is the number after
    ``Final Score:``, see `AskedMetric`.

    Args:
        source: ``CodeGoat24/UnifiedReward-2.0-qwen-7b``, another size of it, or a folder.
        question: What is asked, with ``{prompt}`` where the prompt goes, as text or the path of a
            file. It must be given: the wording that it was trained with is its authors', and is
            not shipped; an error says where it is.
        tokens: The longest answer, in tokens.
        batch: Pictures in the model at a time; it changes answers by rounding alone.
        label: Name of the column.
        policy: Dtypes of the model.
        device: Where it runs.
        towers: With whom it is shared.

    Raises:
        ModuleNotFoundError: transformers or jinja2 is not installed.
        FileNotFoundError: The hub cannot be reached, or a folder lacks files.
        ValueError: `question` lacks, or has no place for the prompt; a model of another family, or
            weights that do not fit.

    Example:
        ``UnifiedReward(source="owner/name", question="question.txt")(images, prompts)``

    Source: Wang et al., "Unified Reward Model for Multimodal Understanding and Generation", arXiv
    2503.05236.
    """

    source: str | os.PathLike[str] = attrs.field(
        validator=located(folder="a Qwen vision-language model in the layout of transformers")
    )
    question: str = attrs.field(
        default=None, converter=read_question, repr=False, validator=one_place
    )
    tokens: int = attrs.field(default=4096, validator=integer(1, COUNT))
    batch: int = attrs.field(default=1, validator=integer(1, BATCH))
    label: str = attrs.field(default="UnifiedReward", validator=not_empty)
    policy: DtypePolicy = BFLOAT16
    device: torch.device = attrs.field(default=CPU, converter=torch.device)
    towers: Towers = attrs.field(default=TOWERS, repr=False)
    metric: AskedMetric = attrs.field(init=False, repr=False)

    @staticmethod
    def needs(source: str | os.PathLike[str]) -> tuple[Need, ...]:
        """What its construction reads; see `flowbp.rewards.Need`."""
        return chat_needs(source)

    @metric.default
    def _load(self) -> AskedMetric:
        # Now, because validators run last and loading comes before that.
        attrs.validate(self)
        chat = load_vision_chat(
            self.source,
            tokens=self.tokens,
            batch=self.batch,
            policy=self.policy,
            device=self.device,
            towers=self.towers,
        )
        return AskedMetric(self.question, chat, self.label)

    def __call__(self, images: Tensor, prompts: Sequence[HeldOut]) -> Mapping[str, Tensor]:
        """Judge pictures (B, 3, H, W) in [0, 1]; (B,) from 1 to 5 under the label."""
        return self.metric(images, prompts)


Answering = Callable[[Tensor, Sequence[str]], Sequence[str]]
"""Pictures (B, 3, H, W) in [0, 1] and B questions to B answers."""


@attrs.frozen(eq=False)
class AskedMetric:
    """The score from 1 to 5 after ``Final Score:`` in the answer to a question.

    An answer without one stops the evaluation with its words: a zero in its place would count as a
    very bad picture.
    """

    question: str = attrs.field(repr=False, validator=one_place)
    answering: Answering
    label: str = attrs.field(validator=not_empty)

    @torch.no_grad()
    def __call__(self, images: Tensor, prompts: Sequence[HeldOut]) -> Mapping[str, Tensor]:
        """Judge pictures."""
        texts = [prompt.text for prompt in prompts]
        answers = self.answering(images, [self.question.replace(PLACE, text) for text in texts])
        scores = [
            final_score(answer, prompt=text) for answer, text in zip(answers, texts, strict=True)
        ]
        return {self.label: torch.tensor(scores)}


_LOWEST, _HIGHEST = 1.0, 5.0
_SHOWN = 300
_SAID = re.compile(r"final\s+score[*_]*\s*:[\s*_]*", re.IGNORECASE)
# A whole number or decimal, perhaps out of 5; "4-5", "4.5.2", "4/10" and "4th" are none.
_NUMBER = re.compile(
    r"""(-?\d+(?:\.\d+)?)  (?:\s*/\s*5)?
        (?! [\d.,]*\d | \s*[-–/]\s*\d | [A-Za-z%] )""",
    re.VERBOSE,
)


class UnreadableAnswer(ValueError):
    """A judge's answer in which there is no score."""

    def __init__(self, prompt: str, answer: str, why: str) -> None:
        quoted = answer
        if len(answer) > 2 * _SHOWN:
            quoted = f"{answer[:_SHOWN]} … {answer[-_SHOWN:]}"
        super().__init__(f"the judge's answer for {prompt!r} cannot be read, {why}: {quoted!r}")
        self.prompt, self.answer = prompt, answer


def final_score(answer: str, *, prompt: str) -> float:
    """The number after ``Final Score:``."""
    said = [_NUMBER.match(answer, mark.end()) for mark in _SAID.finditer(answer)]
    if not said:
        raise UnreadableAnswer(prompt, answer, "it says no `Final Score:`")
    found = {None if number is None else float(number[1]) for number in said}
    if len(found) > 1:
        raise UnreadableAnswer(prompt, answer, "it says more than one `Final Score:`")
    (score,) = found
    if score is None:
        raise UnreadableAnswer(prompt, answer, "it says no number after `Final Score:`")
    if not _LOWEST <= score <= _HIGHEST:
        raise UnreadableAnswer(prompt, answer, f"{score:g} is not from 1 to 5")
    return score
