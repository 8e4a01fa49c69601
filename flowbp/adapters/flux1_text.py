"""Prompts to the conditioning of FLUX.1: T5 for the tokens, CLIP for the pooled embedding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import torch
from torch import Tensor

from flowbp.adapters.backbone import Conditioning
from flowbp.adapters.policy import CPU, FLOAT32, DtypePolicy
from flowbp.adapters.text_encoders import TextEncoders
from flowbp.adapters.text_tower import TextTower, check_positions, check_prompts

MAX_TEXT_LENGTH = 512
"""The most T5 positions that the diffusers pipeline accepts."""


@attrs.frozen(kw_only=True, eq=False)
class Flux1Text:
    """Encodes prompts exactly as FluxPipeline does.

    ``tokens`` (B, text_length, width): the last hidden states of T5. ``pooled`` (B, P): the pooled
    output of CLIP, which reads the first 77 tokens or as many as its tokenizer gives.

    Construction moves the encoders to `device`, casts them and freezes them.

    Args:
        clip: CLIPTextModel.
        t5: T5EncoderModel.
        width: The transformer's joint_attention_dim.
        pooled_width: The transformer's pooled_projection_dim.
        text_length: T5 positions, the pipeline's max_sequence_length.
        policy: Dtypes of the encoders.
        device: Where they run.

    Raises:
        ValueError: An illegal `text_length`, or encoders that do not fit the transformer or
            their tokenizers.

    Example:
        ``Flux1Text(clip=clip, t5=t5, width=4096, pooled_width=768)(["two blue squares"])``
    """

    clip: TextTower
    t5: TextTower
    width: int
    pooled_width: int
    text_length: int = 512
    policy: DtypePolicy = FLOAT32
    device: torch.device = attrs.field(default=CPU, converter=torch.device)

    def __attrs_post_init__(self) -> None:
        if not 1 <= self.text_length <= MAX_TEXT_LENGTH:
            raise ValueError(
                f"`text_length` must be in [1, {MAX_TEXT_LENGTH}], got {self.text_length}"
            )
        check_positions("clip", self.clip, self.clip.tokenizer.model_max_length)
        for name, field, wanted, got in (
            ("clip", "hidden_size", self.pooled_width, self.clip.encoder.config.hidden_size),
            ("t5", "d_model", self.width, self.t5.encoder.config.d_model),
        ):
            if got != wanted:
                raise ValueError(
                    f"`{name}` must have {field} {wanted} like the transformer, got {got}; "
                    "this text encoder belongs to another transformer"
                )
        for tower in (self.clip, self.t5):
            tower.held.place(self.policy, self.device)

    @property
    def encoders(self) -> TextEncoders:
        """The encoders by their names in the pipeline; the T5 decides what is cut."""
        return TextEncoders(
            family="flux1",
            towers={"text_encoder": self.clip, "text_encoder_2": self.t5},
            read={"text_encoder_2": self.text_length},
            facts={"text_length": self.text_length, "dtypes": str(self.policy)},
            device=self.device,
        )

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str]) -> Conditioning:
        """Encode B prompts to ``tokens`` and ``pooled``, without gradient.

        Args:
            prompts: B strings; ``""`` is the empty prompt of guidance.

        Returns:
            Conditioning of B samples.

        Raises:
            ValueError: No prompt, or a bare string in place of a sequence.
        """
        check_prompts(prompts)
        ids, _ = self.t5.tokens(prompts, self.text_length)
        tokens = self._run(self.t5, ids).last_hidden_state
        # What CLIP does not read T5 does, so that nobody need be warned.
        ids, _ = self.clip.tokens(prompts, self.clip.tokenizer.model_max_length, warn=False)
        return Conditioning({"tokens": tokens, "pooled": self._run(self.clip, ids).pooler_output})

    def _run(self, tower: TextTower, ids: Tensor) -> Any:
        with self.policy.autocast(self.device):
            return tower.encoder(ids.to(self.device))
