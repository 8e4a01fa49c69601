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
from flowbp.adapters.decoder import pixels_per_latent
from flowbp.adapters.diffusers_backbone import JOINT_ATTENTION, DiffusersBackbone
from flowbp.adapters.diffusers_components import with_shared_options
from flowbp.adapters.latents import PictureSizes
from flowbp.adapters.pipeline_layout import Layout
from flowbp.adapters.text_encoders import (
    MAX_T5_LENGTH,
    PromptEncoder,
    TextTower,
    check_encoder_width,
    check_joined_width,
    check_positions,
    check_text_length,
)


@attrs.frozen(kw_only=True, eq=False)
class SD3Text(PromptEncoder):
    """Encodes prompts exactly as StableDiffusion3Pipeline does.

    ``tokens`` (B, L + text_length, width): the hidden states before the last layer of both CLIP
    encoders side by side, zero-padded to `width`, followed by `text_length` positions of T5, or
    of zeros where there is no T5. ``pooled`` (B, P): both projected embeddings side by side.
    """

    family: ClassVar[str] = "sd3"
    components: ClassVar[Mapping[str, str]] = {
        "clip": "text_encoder",
        "clip_2": "text_encoder_2",
        "t5": "text_encoder_3",
    }
    decisive: ClassVar[tuple[str, ...]] = ("text_length", "width")

    clip: TextTower
    clip_2: TextTower
    t5: TextTower | None = None
    width: int
    pooled_width: int
    text_length: int = 256

    @property
    def read(self) -> Mapping[str, int]:
        """The T5's tokens; without one CLIP decides what is cut."""
        return {"text_encoder": self._clip_length} if self.t5 is None else super().read

    @property
    def cure(self) -> str:
        """What to do about prompts that are cut."""
        if self.t5 is not None:
            return super().cure
        return (
            "shorten them, or load the model's T5 if it has one (backbone.use_t5=true): without "
            f"it CLIP alone reads them, and never more than {self._clip_length} tokens"
        )

    @property
    def _clip_length(self) -> int:
        # The pipeline reads both CLIP encoders at the first tokenizer's length, and so does this.
        length: int = self.clip.tokenizer.model_max_length
        return length

    def check(self) -> None:
        """Refuse a length or encoders of another model."""
        self._check_length()
        self._check_widths()

    def _check_length(self) -> None:
        least, note = (0, "") if self.t5 is None else (1, " with a T5")
        check_text_length(self.text_length, least=least, most=MAX_T5_LENGTH, note=note)
        check_positions("clip", self.clip, self._clip_length)
        check_positions("clip_2", self.clip_2, self._clip_length)

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
        decides = self.t5 is None and tower is self.clip
        ids, _ = tower.tokens(prompts, self._clip_length, cure=self.cure if decides else None)
        output = self.run(tower.encoder, ids, output_hidden_states=True)
        return output.hidden_states[-2], output.text_embeds

    def _t5(self, prompts: Sequence[str]) -> Tensor:
        if self.t5 is not None:
            return self.run_t5(self.t5, prompts)
        shape = (len(prompts), self.text_length, self.width)
        return torch.zeros(shape, device=self.device, dtype=self.policy.state)


@attrs.frozen(kw_only=True, eq=False)
class SD3Backbone(DiffusersBackbone):
    """Stable Diffusion 3 as `Backbone`, built by `from_pretrained` or `from_pipeline`.

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
    text_kind: ClassVar[type[PromptEncoder]] = SD3Text
    lora_targets: ClassVar[tuple[str, ...]] = JOINT_ATTENTION
    even_grid: ClassVar[bool] = False
    folded: ClassVar[int] = 1

    text: SD3Text

    @classmethod
    @with_shared_options
    def from_pretrained(
        cls,
        source: str | os.PathLike[str],
        *,
        transformer: str | os.PathLike[str] | None = None,
        text_length: int = 256,
        use_t5: bool | None = None,
        **shared: Any,
    ) -> SD3Backbone:
        """Load a hub id or a local folder.

        Args:
            source: ``owner/name`` or a folder with a model_index.json.
            transformer: A ``.safetensors`` file with the transformer, as its publisher or
                diffusers writes it, in place of the source's, whose configuration it must fit.
            text_length: Tokens that T5 reads, the pipeline's max_sequence_length.
            use_t5: True needs a T5, False leaves it out, None takes it where the source's index
                names one, which must be there then.
            **shared: See `DiffusersComponents.from_pretrained`.
        """
        return cls._load(
            source, transformer=transformer, text_length=text_length, optional=use_t5, **shared
        )

    def predicted(self, latents: Tensor, timestep: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
        """The transformer's velocity, given ``tokens`` (B, L, D) and ``pooled`` (B, P)."""
        velocity: Tensor = self.transformer(
            hidden_states=latents,
            timestep=timestep,
            encoder_hidden_states=tensors["tokens"],
            pooled_projections=tensors["pooled"],
            return_dict=False,
        )[0]
        return velocity

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

    def pipeline_parts(self) -> Mapping[str, Any]:
        """None for the parts of a T5 that is not there, which diffusers wants to be given."""
        return dict.fromkeys(self.layout.optional if self.text.t5 is None else ())
