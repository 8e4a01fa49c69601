"""What the families that read prompts by a Qwen3 share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import attrs
from torch import Tensor

from flowbp.adapters.text_encoders import (
    PromptEncoder,
    TextTower,
    check_chat_template,
    check_text_length,
    longer_text,
)


@attrs.frozen(kw_only=True, eq=False)
class Qwen3Text(PromptEncoder):
    """Encodes prompts as a user's messages in the chat template of a Qwen3's tokenizer."""

    components: ClassVar[Mapping[str, str]] = {"qwen": "text_encoder"}
    thinking: ClassVar[bool]
    """Whether the template leaves room for thinking."""
    shortest: ClassVar[str] = "the Qwen3"
    """What has the fewest positions for text."""

    qwen: TextTower
    width: int
    # Kept, because asking an offloaded encoder would bring it back.
    _positions: int = attrs.field(init=False)

    @_positions.default
    def _positions_of_encoder(self) -> int:
        positions: int = self.qwen.encoder.config.max_position_embeddings
        return positions

    @property
    def most(self) -> int:
        """The most tokens that can be read."""
        return self._positions

    def check(self) -> None:
        """Refuse a length that the encoder cannot give, and a tokenizer without a template."""
        note = f", the positions of {self.shortest}"
        check_text_length(self.text_length, most=self.most, note=note)
        check_chat_template("qwen", self.qwen)

    @property
    def cure(self) -> str:
        """What to do about prompts that are cut."""
        return longer_text(self.text_length, self.most)

    def hidden_states(self, prompts: Sequence[str]) -> tuple[Sequence[Tensor], Tensor]:
        """The states (B, text_length, D) of every layer, the embedding first, and the mask."""
        messages = [self.written(each) for each in prompts]
        ids, mask = self.qwen.tokens(messages, self.text_length, cure=self.cure)
        # Without the head: the logits of 512 tokens would be 300 MB for each prompt.
        output = self.run(
            self.qwen.encoder.base_model,
            ids,
            attention_mask=mask,
            output_hidden_states=True,
            use_cache=False,
        )
        states: Sequence[Tensor] = output.hidden_states
        return states, mask

    def written(self, prompt: str) -> str:
        """A prompt as a user's message in the tokenizer's chat template."""
        tokenizer: Any = self.qwen.tokenizer
        message: str = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}],
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=self.thinking,
        )
        return message
