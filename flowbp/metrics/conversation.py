"""A question about a picture as the tokens of a vision-language model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MARK = "⟪question⟫"


@attrs.frozen(eq=False)
class PictureConversation:
    """One question about one picture, in the model's own chat template.

    Args:
        tokenizer: of the model, with its chat template.
        picture: number of the token that stands for a part of a picture.

    Raises:
        ValueError: a tokenizer without a chat template, or with one of a model that sees nothing.

    Example:
        ``PictureConversation(tokenizer, 151655).tokens("What is it?", parts=324)``
    """

    tokenizer: PreTrainedTokenizerBase
    picture: int
    _around: tuple[list[int], list[int]] = attrs.field(init=False, repr=False)

    @_around.default
    def _render(self) -> tuple[list[int], list[int]]:
        if not self.tokenizer.chat_template:
            raise ValueError(
                "`tokenizer` must have a chat template, got none; copy chat_template.jinja, or "
                "chat_template.json, of the model as well"
            )
        content = [{"type": "image"}, {"type": "text", "text": _MARK}]
        text = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        before, mark, after = text.partition(_MARK)
        sides = tuple(self._encode(side, marks=True) for side in (before, after))
        if not mark or sides[0].count(self.picture) != 1 or self.picture in sides[1]:
            raise ValueError(
                "`tokenizer` must have a chat template with one picture before the question, got "
                f"{text!r}; take that of the model, which sees pictures"
            )
        return sides[0], sides[1]

    def tokens(self, question: str, *, parts: int) -> list[int]:
        """The tokens of a question.

        Args:
            question: Any text; marks of the conversation written out in it are text too.
            parts: of the picture, each of which takes a token.

        Returns:
            Their numbers.
        """
        before, after = self._around
        at = before.index(self.picture)
        return [
            *(*before[:at], *[self.picture] * parts, *before[at + 1 :]),
            *(*self._encode(question, marks=False), *after),
        ]

    def _encode(self, text: str, *, marks: bool) -> list[int]:
        ids: list[int] = self.tokenizer(
            text, add_special_tokens=False, split_special_tokens=not marks
        ).input_ids
        return ids
