"""UnifiedReward: a vision-language model that is asked how well a picture fits its prompt."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import attrs
import torch
from torch import Tensor

from flowbp.adapters.policy import CPU, DtypePolicy
from flowbp.core._validators import integer
from flowbp.evaluation import HeldOut
from flowbp.evaluation.validators import not_empty
from flowbp.limits import BATCH, COUNT
from flowbp.metrics.asking import AskedMetric
from flowbp.metrics.chat_source import chat_needs, load_vision_chat
from flowbp.metrics.vision_chat import BFLOAT16
from flowbp.rewards.needs import Need
from flowbp.rewards.places import located
from flowbp.rewards.templates import PLACE, one_place, text_or_file
from flowbp.rewards.towers import TOWERS, Towers

_WHERE = (
    "the question that it was trained with is in the inference examples for scoring a picture of "
    f"github.com/CodeGoat24/UnifiedReward; write it with {PLACE} where the prompt goes"
)


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
    ``Final Score:``, see `AskedMetric`.

    Construction loads the model.

    Args:
        source: ``CodeGoat24/UnifiedReward-2.0-qwen-7b``, another size of it, or a folder.
        question: What is asked, with ``{prompt}`` where the prompt goes, as text or the path of a
            file. It must be given: the wording that it was trained with is its authors', and is
            not shipped; an error says where it is.
        tokens: Longest answer.
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
