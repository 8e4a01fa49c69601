"""Prompts to the conditioning of FLUX.2 klein: hidden states from the middle of a Qwen3."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import torch

from flowbp.adapters.backbone import Conditioning
from flowbp.adapters.policy import CPU, FLOAT32, DtypePolicy
from flowbp.adapters.text_checks import (
    check_joined_width,
    check_prompts,
    check_text_length,
    longer_text,
)
from flowbp.adapters.text_encoders import TextEncoders
from flowbp.adapters.text_tower import TextTower, run_encoder

HIDDEN_LAYERS = (9, 18, 27)
"""The layers of Qwen3 whose outputs Flux2KleinPipeline reads, 0 being the embedding."""


@attrs.frozen(kw_only=True, eq=False)
class Flux2Text:
    """Encodes prompts exactly as Flux2KleinPipeline does.

    A prompt is written as a user's message in the tokenizer's chat template, without thinking.
    ``tokens`` (B, text_length, width): at each position the outputs of `layers`, one after the
    other. The vocabulary's logits are not computed.

    Construction moves the encoder to `device`, casts it and freezes it.

    Args:
        qwen: Qwen3ForCausalLM.
        width: The transformer's joint_attention_dim.
        text_length: Tokens, template included; the pipeline's max_sequence_length.
        layers: Whose outputs are read.
        policy: Dtypes of the encoder.
        device: Where it runs.

    Raises:
        ValueError: An illegal `text_length`, layers that the encoder does not have, an encoder
            that does not fit the transformer, or a tokenizer without a chat template.

    Example:
        ``Flux2Text(qwen=qwen, width=12288)(["two blue squares"])``
    """

    qwen: TextTower
    width: int
    text_length: int = 512
    layers: tuple[int, ...] = HIDDEN_LAYERS
    policy: DtypePolicy = FLOAT32
    device: torch.device = attrs.field(default=CPU, converter=torch.device)
    # Kept, because asking a released encoder would bring it back.
    _positions: int = attrs.field(init=False)

    @_positions.default
    def _positions_of_encoder(self) -> int:
        positions: int = self.qwen.encoder.config.max_position_embeddings
        return positions

    def __attrs_post_init__(self) -> None:
        config = self.qwen.encoder.config
        note = ", the positions of the Qwen3"
        check_text_length(self.text_length, most=self._positions, note=note)
        if not all(0 <= layer <= config.num_hidden_layers for layer in self.layers):
            raise ValueError(
                f"`layers` must be in [0, {config.num_hidden_layers}], the layers of the Qwen3, "
                f"got {self.layers}; this text encoder belongs to another model"
            )
        check_joined_width(
            "width",
            self.width,
            len(self.layers) * config.hidden_size,
            f"{len(self.layers)} layers of the Qwen3's {config.hidden_size}",
        )
        if not self.qwen.tokenizer.chat_template:
            raise ValueError(
                "`qwen` must have a tokenizer with a chat template, got one without; copy "
                "chat_template.jinja into the tokenizer's folder, or download it again"
            )
        self.qwen.held.place(self.policy, self.device)

    @property
    def encoders(self) -> TextEncoders:
        """The encoder by its name in the pipeline; the chat template counts in what is read."""
        facts = {
            "text_length": self.text_length,
            "layers": self.layers,
            "dtypes": str(self.policy),
        }
        return TextEncoders(
            family="flux2",
            towers={"text_encoder": self.qwen},
            read={"text_encoder": self.text_length},
            facts=facts,
            device=self.device,
            written=self._message,
            cure=self._cure,
        )

    @property
    def _cure(self) -> str:
        return longer_text(self.text_length, self._positions)

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str]) -> Conditioning:
        """Encode B prompts to ``tokens``, without gradient.

        Args:
            prompts: B strings; ``""`` is the empty prompt of guidance.

        Returns:
            Conditioning of B samples.

        Raises:
            ValueError: No prompt, or a bare string in place of a sequence.
        """
        check_prompts(prompts)
        messages = [self._message(each) for each in prompts]
        ids, mask = self.qwen.tokens(messages, self.text_length, cure=self._cure)
        # Without the head: the logits of 512 tokens would be 300 MB for each prompt.
        output = run_encoder(
            self.qwen.encoder.model,
            ids,
            self.policy,
            self.device,
            attention_mask=mask,
            output_hidden_states=True,
            use_cache=False,
        )
        hidden = [output.hidden_states[layer] for layer in self.layers]
        return Conditioning({"tokens": torch.cat(hidden, dim=-1)})

    def _message(self, prompt: str) -> str:
        message: str = self.qwen.tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}],
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=False,
        )
        return message
