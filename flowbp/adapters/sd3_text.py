"""Prompts to the conditioning of Stable Diffusion 3: two CLIP encoders and an optional T5."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import torch
from torch import Tensor
from torch.nn import functional as F

from flowbp.adapters.backbone import Conditioning
from flowbp.adapters.policy import CPU, FLOAT32, DtypePolicy
from flowbp.adapters.text_checks import (
    MAX_T5_LENGTH,
    check_encoder_width,
    check_joined_width,
    check_positions,
    check_prompts,
    check_text_length,
    longer_text,
)
from flowbp.adapters.text_encoders import TextEncoders
from flowbp.adapters.text_tower import TextTower, run_encoder


@attrs.frozen(kw_only=True, eq=False)
class SD3Text:
    """Encodes prompts exactly as StableDiffusion3Pipeline does.

    ``tokens`` (B, L + text_length, width): the hidden states before the last layer of both CLIP
    encoders side by side, zero-padded to `width`, followed by `text_length` positions of T5, or
    of zeros where there is no T5. ``pooled`` (B, P): both projected embeddings side by side.

    Construction moves the encoders to `device`, casts them and freezes them.

    Args:
        clip: First CLIPTextModelWithProjection.
        clip_2: Second CLIPTextModelWithProjection.
        t5: T5EncoderModel, or None.
        width: The transformer's joint_attention_dim.
        pooled_width: The transformer's pooled_projection_dim.
        text_length: T5 positions, the pipeline's max_sequence_length; 0 is legal without T5.
        policy: Dtypes of the encoders.
        device: Where they run.

    Raises:
        ValueError: An illegal `text_length`, or encoders that do not fit the transformer or
            their tokenizers.
    """

    clip: TextTower
    clip_2: TextTower
    t5: TextTower | None = None
    width: int
    pooled_width: int
    text_length: int = 256
    policy: DtypePolicy = FLOAT32
    device: torch.device = attrs.field(default=CPU, converter=torch.device)

    def __attrs_post_init__(self) -> None:
        self._check_length()
        self._check_widths()
        for tower in (self.clip, self.clip_2, self.t5):
            if tower is not None:
                tower.held.place(self.policy, self.device)

    @property
    def encoders(self) -> TextEncoders:
        """The encoders by their names in the pipeline; without a T5 CLIP decides what is cut."""
        towers = {"text_encoder": self.clip, "text_encoder_2": self.clip_2}
        read = {"text_encoder": self.clip.tokenizer.model_max_length}
        if self.t5 is not None:
            towers["text_encoder_3"] = self.t5
            read = {"text_encoder_3": self.text_length}
        facts = {"text_length": self.text_length, "width": self.width, "dtypes": str(self.policy)}
        return TextEncoders(
            family="sd3",
            towers=towers,
            read=read,
            facts=facts,
            device=self.device,
            cure=self._cure,
        )

    @property
    def _cure(self) -> str:
        if self.t5 is not None:
            return longer_text(self.text_length, MAX_T5_LENGTH)
        length = self.clip.tokenizer.model_max_length
        return (
            "shorten them, or load the model's T5 if it has one (backbone.use_t5=true): without "
            f"it CLIP alone reads them, and never more than {length} tokens"
        )

    def _check_length(self) -> None:
        least, note = (0, "") if self.t5 is None else (1, " with a T5")
        check_text_length(self.text_length, least=least, most=MAX_T5_LENGTH, note=note)
        length = self.clip.tokenizer.model_max_length
        for name, tower in (("clip", self.clip), ("clip_2", self.clip_2)):
            check_positions(name, tower, length)

    def _check_widths(self) -> None:
        towers = (self.clip.encoder.config, self.clip_2.encoder.config)
        hidden = sum(config.hidden_size for config in towers)
        if hidden > self.width:
            raise ValueError(
                f"`width` must be at least {hidden}, both CLIP widths together, got {self.width}; "
                "these text encoders belong to another transformer"
            )
        pooled = sum(config.projection_dim for config in towers)
        check_joined_width(
            "pooled_width", self.pooled_width, pooled, "both CLIP projections together"
        )
        if self.t5 is not None:
            check_encoder_width("t5", self.t5, "d_model", self.width)

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
        tokens, pooled = zip(
            *(self._clip(tower, prompts) for tower in (self.clip, self.clip_2)), strict=True
        )
        joined = torch.cat(tokens, dim=-1)
        joined = F.pad(joined, (0, self.width - joined.shape[-1]))
        return Conditioning(
            {
                "tokens": torch.cat([joined, self._t5(prompts).to(joined.dtype)], dim=-2),
                "pooled": torch.cat(pooled, dim=-1),
            }
        )

    def _clip(self, tower: TextTower, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        # The pipeline reads both CLIP encoders at the first tokenizer's length, and so does this.
        length = self.clip.tokenizer.model_max_length
        decides = self.t5 is None and tower is self.clip
        ids, _ = tower.tokens(prompts, length, cure=self._cure if decides else None)
        output = run_encoder(
            tower.encoder, ids, self.policy, self.device, output_hidden_states=True
        )
        return output.hidden_states[-2], output.text_embeds

    def _t5(self, prompts: Sequence[str]) -> Tensor:
        if self.t5 is None:
            shape = (len(prompts), self.text_length, self.width)
            return torch.zeros(shape, device=self.device, dtype=self.policy.state)
        ids, _ = self.t5.tokens(prompts, self.text_length, cure=self._cure)
        hidden: Tensor = run_encoder(
            self.t5.encoder, ids, self.policy, self.device
        ).last_hidden_state
        return hidden
