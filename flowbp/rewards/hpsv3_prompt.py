"""The conversation that HPSv3 reads, in the order it was trained with."""

from __future__ import annotations

import hashlib
import os
import warnings
from typing import TYPE_CHECKING

import attrs

from flowbp.rewards.templates import PLACE, one_place, text_or_file

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

REWARD_TOKEN = "<|Reward|>"
"""The token whose hidden state the head reads; Qwen2-VL's vocabulary goes on with it."""

PUBLISHED_TEMPLATE = "eec53640fa8b722d1bc98497f3697eb7d0ad13afc6ced5936ee3bafc38b6e7f8"
"""SHA-256 of the question that HPSv3 was trained with, its slips and spaces included."""

_WHERE = (
    "the question that it was trained with is INSTRUCTION in hpsv3/dataset/data_collator_qwen.py "
    "of github.com/MizzenAI/HPSv3, from its first line break to the blank after the last colon, "
    f"with {PLACE} in place of its own mark for the prompt"
)

_SYSTEM = "system\nYou are a helpful assistant."
_SPECIAL = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>")


def read_template(value: str | os.PathLike[str] | None) -> str:
    """The question that HPSv3 is asked, given as text or as a file.

    It is not shipped, as its wording belongs to others.

    Args:
        value: a text with ``{prompt}`` in it, or the path of a file that holds one.

    Returns:
        The text.

    Warns:
        UserWarning: it is not the published one, letter for letter.

    Raises:
        ValueError: nothing is given, or no such file.

    Example:
        >>> import warnings
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("ignore")
        ...     read_template("Rate this picture of {prompt}: ")
        'Rate this picture of {prompt}: '
    """
    text = text_or_file(value, argument="template", asked="HPSv3", where=_WHERE)
    if hashlib.sha256(text.encode()).hexdigest() != PUBLISHED_TEMPLATE:
        warnings.warn(
            f"`template` is not what HPSv3 was trained with, so its scores are others; {_WHERE}",
            stacklevel=2,
        )
    return text


@attrs.frozen(eq=False)
class Conversation:
    """The tokens around a picture.

    ::

        <|im_start|>system … <|im_end|> <|im_start|>user <|vision_start|>   before
        one token for each 28x28 pixels                                     the picture
        <|vision_end|> template, with the prompt <|Reward|>                 after

    The published conversation goes on after the reward token, but attention is causal: nothing
    there reaches it.

    Args:
        tokenizer: of Qwen2-VL.
        template: What is asked, with ``{prompt}`` where the prompt goes.

    Raises:
        ValueError: A template without a place for the prompt, or a tokenizer of another model.

    Source: Ma et al., arXiv 2508.03789; Qwen2-VL's chat template.
    """

    tokenizer: PreTrainedTokenizerBase
    template: str = attrs.field(validator=one_place)

    def __attrs_post_init__(self) -> None:
        vocabulary = self.tokenizer.get_vocab()
        unknown = [token for token in _SPECIAL if token not in vocabulary]
        if unknown:
            raise ValueError(
                f"`tokenizer` must be Qwen2-VL's, got one without {unknown[0]}; take that of "
                "Qwen/Qwen2-VL-7B-Instruct"
            )

    @property
    def reward_id(self) -> int:
        """Number of the reward token: the vocabulary's own, or the one after its last."""
        return int(self.tokenizer.get_vocab().get(REWARD_TOKEN, len(self.tokenizer)))

    @property
    def before(self) -> list[int]:
        """Tokens before the picture."""
        start, end, picture, _ = self.tokenizer.convert_tokens_to_ids(list(_SPECIAL))
        return [
            *(start, *self._encode(_SYSTEM), end, *self._encode("\n")),
            *(start, *self._encode("user\n"), picture),
        ]

    def after(self, prompt: str) -> list[int]:
        """Tokens after the picture, the last of them the reward token.

        Args:
            prompt: Any text; marks of the conversation written out in it are text too.

        Returns:
            Their numbers.
        """
        end: int = self.tokenizer.convert_tokens_to_ids("<|vision_end|>")
        return [end, *self._encode(self.template.replace(PLACE, prompt)), self.reward_id]

    def _encode(self, text: str) -> list[int]:
        # A reward token or the end of the conversation within a prompt must not be one.
        ids: list[int] = self.tokenizer(
            text, add_special_tokens=False, split_special_tokens=True
        ).input_ids
        return ids
