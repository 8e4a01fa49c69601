"""Stable Diffusion 3 and 3.5 as a backbone, over diffusers' own components."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor
from torch.nn import functional as F

from flowbp.adapters.backbone import Conditioning
from flowbp.adapters.capabilities import Checkpointing
from flowbp.adapters.decoder import Clamp, check_channels, hard_clamp, pixels_per_latent
from flowbp.adapters.diffusers_backbone import JOINT_ATTENTION, DiffusersBackbone
from flowbp.adapters.dtype_policy import FLOAT32, DtypePolicy
from flowbp.adapters.latents import PictureSizes
from flowbp.adapters.pipeline_layout import Layout
from flowbp.adapters.text_encoders import (
    MAX_T5_LENGTH,
    PromptEncoder,
    TextEncoders,
    TextTower,
    check_encoder_width,
    check_joined_width,
    check_positions,
    check_text_length,
    longer_text,
    run_encoder,
)
from flowbp.adapters.velocity import TransformerVelocity


@attrs.frozen(kw_only=True, eq=False)
class SD3Text(PromptEncoder):
    """Encodes prompts exactly as StableDiffusion3Pipeline does.

    ``tokens`` (B, L + text_length, width): the hidden states before the last layer of both CLIP
    encoders side by side, zero-padded to `width`, followed by `text_length` positions of T5, or
    of zeros where there is no T5. ``pooled`` (B, P): both projected embeddings side by side.
    """

    clip: TextTower
    clip_2: TextTower
    t5: TextTower | None = None
    width: int
    pooled_width: int
    text_length: int = 256

    def check(self) -> None:
        """Refuse a length or encoders of another model."""
        self._check_length()
        self._check_widths()

    @classmethod
    def towers_of(cls, parts: Mapping[str, Any]) -> dict[str, Any]:
        """The encoders and widths of a pipeline; without text_encoder_3 the T5 is left out."""
        config = parts["transformer"].config
        return {
            "clip": TextTower(parts["text_encoder"], parts["tokenizer"]),
            "clip_2": TextTower(parts["text_encoder_2"], parts["tokenizer_2"]),
            "t5": parts["text_encoder_3"]
            and TextTower(parts["text_encoder_3"], parts["tokenizer_3"]),
            "width": config["joint_attention_dim"],
            "pooled_width": config["pooled_projection_dim"],
        }

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

    def encoded(self, prompts: Sequence[str]) -> Conditioning:
        """Encode B prompts to ``tokens`` and ``pooled``."""
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


class SD3Velocity(TransformerVelocity):
    """The SD3 transformer under one conditioning: ``tokens`` (B, L, D) and ``pooled`` (B, P)."""

    def predicted(self, latents: Tensor, timestep: Tensor) -> Tensor:
        """The network's velocity at `latents` (B, C, h, w) and `timestep` (B,)."""
        velocity: Tensor = self.transformer(
            hidden_states=latents,
            timestep=timestep,
            encoder_hidden_states=self.embedding("tokens"),
            pooled_projections=self.embedding("pooled"),
            return_dict=False,
        )[0]
        return velocity


@attrs.frozen(kw_only=True, eq=False)
class SD3Backbone(DiffusersBackbone):
    """Stable Diffusion 3 as `Backbone`; build it with `from_pretrained` or `from_pipeline`.

    Its arguments are those of `DiffusersBackbone`.

    Example:
        >>> SD3Backbone.from_pretrained("/no/such/folder")
        Traceback (most recent call last):
            ...
        FileNotFoundError: `source` must be a folder or a hub id like owner/name, got \
'/no/such/folder'; there is no folder /no/such/folder
    """

    layout: ClassVar[Layout] = Layout(
        pipeline="StableDiffusion3Pipeline",
        models={
            "transformer": ("diffusers", "SD3Transformer2DModel"),
            "vae": ("diffusers", "AutoencoderKL"),
            "text_encoder": ("transformers", "CLIPTextModelWithProjection"),
            "text_encoder_2": ("transformers", "CLIPTextModelWithProjection"),
            "text_encoder_3": ("transformers", "T5EncoderModel"),
        },
        others=("scheduler", "tokenizer", "tokenizer_2", "tokenizer_3"),
        optional=("text_encoder_3", "tokenizer_3"),
        option="use_t5",
    )
    velocity_kind: ClassVar[type[TransformerVelocity]] = SD3Velocity
    text_kind: ClassVar[type[PromptEncoder]] = SD3Text
    lora_targets: ClassVar[tuple[str, ...]] = JOINT_ATTENTION
    even_grid: ClassVar[bool] = False

    text: SD3Text

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike[str],
        *,
        policy: DtypePolicy = FLOAT32,
        frozen_policy: DtypePolicy | None = None,
        device: torch.device | str = "cpu",
        text_length: int = 256,
        use_t5: bool | None = None,
        decode_batch: int | None = None,
        clamp: Clamp = hard_clamp,
        gradient_checkpointing: Checkpointing = "auto",
    ) -> SD3Backbone:
        """Load a hub id or a local folder, with the arguments of every family.

        `use_t5` True needs a T5, False leaves it out, None takes it where the source's index
        names one, which must be there then.
        """
        return cls._load(
            source,
            policy=policy,
            frozen_policy=frozen_policy,
            device=device,
            text_length=text_length,
            optional=use_t5,
            decode_batch=decode_batch,
            clamp=clamp,
            gradient_checkpointing=gradient_checkpointing,
        )

    def check_components(self) -> None:
        """Refuse a VAE of another model."""
        check_channels(self.decoder, self.transformer.config["in_channels"])

    @classmethod
    def patch(cls, transformer: Mapping[str, Any]) -> int:
        """Latents along one side of a patch."""
        patch: int = transformer["patch_size"]
        return patch

    @classmethod
    def picture_sizes(cls, transformer: Mapping[str, Any], vae: Mapping[str, Any]) -> PictureSizes:
        """Sides that divide into patches and are within the positional embedding."""
        multiple = pixels_per_latent(vae) * cls.patch(transformer)
        return PictureSizes(multiple, (transformer["pos_embed_max_size"] or 0) * multiple or None)

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """The (C, h, w) of a picture."""
        self.check_size(height, width)
        scale = self.decoder.scale_factor
        return self.transformer.config["in_channels"], height // scale, width // scale

    def pipeline_parts(self) -> Mapping[str, Any]:
        """None for the parts of a T5 that is not there, which diffusers wants to be given."""
        return dict.fromkeys(self.layout.optional if self.text.t5 is None else ())
