"""Prompts to the conditioning of FLUX.1: T5 for the tokens, CLIP for the pooled embedding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import torch

from flowbp.adapters.backbone import Conditioning
from flowbp.adapters.policy import CPU, FLOAT32, DtypePolicy
from flowbp.adapters.text_checks import (
    MAX_T5_LENGTH,
    check_encoder_width,
    check_positions,
    check_prompts,
    check_text_length,
    longer_text,
)
from flowbp.adapters.text_encoders import TextEncoders
from flowbp.adapters.text_tower import TextTower, run_encoder


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
        check_text_length(self.text_length, most=MAX_T5_LENGTH)
        check_positions("clip", self.clip, self.clip.tokenizer.model_max_length)
        check_encoder_width("clip", self.clip, "hidden_size", self.pooled_width)
        check_encoder_width("t5", self.t5, "d_model", self.width)
        for tower in (self.clip, self.t5):
            tower.held.place(self.policy, self.device)

    @classmethod
    def from_components(
        cls,
        parts: Mapping[str, Any],
        *,
        text_length: int,
        policy: DtypePolicy,
        device: torch.device | str,
    ) -> Flux1Text:
        """Take the encoders of a FluxPipeline, with the widths that its transformer reads.

        Args:
            parts: The pipeline's components by name.
            text_length: T5 positions.
            policy: Dtypes of the encoders.
            device: Where they run.

        Returns:
            The encoders.

        Raises:
            ValueError: See the class.
        """
        config = parts["transformer"].config
        return cls(
            clip=TextTower(parts["text_encoder"], parts["tokenizer"]),
            t5=TextTower(parts["text_encoder_2"], parts["tokenizer_2"]),
            width=config["joint_attention_dim"],
            pooled_width=config["pooled_projection_dim"],
            text_length=text_length,
            policy=policy,
            device=device,
        )

    @property
    def encoders(self) -> TextEncoders:
        """The encoders by their names in the pipeline; the T5 decides what is cut."""
        return TextEncoders(
            family="flux1",
            towers={"text_encoder": self.clip, "text_encoder_2": self.t5},
            read={"text_encoder_2": self.text_length},
            facts={"text_length": self.text_length, "dtypes": str(self.policy)},
            device=self.device,
            cure=self._cure,
        )

    @property
    def _cure(self) -> str:
        return longer_text(self.text_length, MAX_T5_LENGTH)

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
        ids, _ = self.t5.tokens(prompts, self.text_length, cure=self._cure)
        tokens = run_encoder(self.t5.encoder, ids, self.policy, self.device).last_hidden_state
        # What CLIP does not read T5 does, so that nobody need be warned.
        ids, _ = self.clip.tokens(prompts, self.clip.tokenizer.model_max_length)
        pooled = run_encoder(self.clip.encoder, ids, self.policy, self.device).pooler_output
        return Conditioning({"tokens": tokens, "pooled": pooled})
