"""Z-Image as a backbone, over diffusers' own components."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor

from flowbp.adapters.backbone import LENGTHS, Conditioning
from flowbp.adapters.decoder import pixels_per_latent
from flowbp.adapters.diffusers_backbone import DiffusersBackbone
from flowbp.adapters.latents import PictureSizes
from flowbp.adapters.pipeline_layout import Layout
from flowbp.adapters.qwen3_text import Qwen3Text
from flowbp.adapters.text_encoders import check_encoder_width, unpadded

# The transformer fills the text up to a multiple of these, and puts the picture behind it.
_TEXT_BLOCK = 32


@attrs.frozen(kw_only=True, eq=False)
class ZImageText(Qwen3Text):
    """Encodes prompts exactly as ZImagePipeline does.

    A prompt is written as a user's message in the tokenizer's chat template, with room for
    thinking. ``tokens`` (B, text_length, width): the states of the last layer but one, zero beyond
    the prompt's own; ``lengths`` (B,): how many these are.
    """

    family: ClassVar[str] = "z_image"
    from_transformer: ClassVar[Mapping[str, str]] = {"width": "cap_feat_dim", "axes": "axes_lens"}
    thinking: ClassVar[bool] = True
    shortest: ClassVar[str] = "the transformer"

    axes: Sequence[int]

    @property
    def most(self) -> int:
        """The most tokens that can be read: the transformer has one more position, and 0."""
        return min(super().most, (self.axes[0] - 2) // _TEXT_BLOCK * _TEXT_BLOCK)

    def check(self) -> None:
        """Refuse a length or an encoder of another model."""
        super().check()
        check_encoder_width("qwen", self.qwen, "hidden_size", self.width)

    def encoded(self, prompts: Sequence[str]) -> Conditioning:
        """Encode B prompts to ``tokens`` and ``lengths``."""
        states, mask = self.hidden_states(prompts)
        return Conditioning({"tokens": unpadded(states[-2], mask), LENGTHS: mask.sum(1)})


@attrs.frozen(kw_only=True, eq=False)
class ZImageBackbone(DiffusersBackbone):
    """Z-Image or Z-Image-Turbo as `Backbone`; build it with `from_pretrained` or `from_pipeline`.

    Latents are those of the VAE, (B, 16, H/8, W/8). The transformer reads as many text tokens as
    the prompt has, so that a call takes longer for longer prompts.

    The guidance ``v⁻ + s (v⁺ - v⁻)`` is counted from 1, and ZImagePipeline counts it from 0: its
    ``guidance_scale`` is s - 1. Its ``cfg_normalization`` and ``cfg_truncation`` are not done
    here; they are off by default there. Turbo was distilled to few steps and guidance 1, which its
    files do not say.

    Its arguments are those of `DiffusersBackbone`.

    Example:
        >>> ZImageBackbone.from_pretrained("/no/such/folder")
        Traceback (most recent call last):
            ...
        FileNotFoundError: `source` must be a folder or a hub id like owner/name, got \
'/no/such/folder'; there is no folder /no/such/folder
    """

    layout: ClassVar[Layout] = Layout(
        pipeline="ZImagePipeline",
        models={
            "transformer": ("diffusers", "ZImageTransformer2DModel"),
            "vae": ("diffusers", "AutoencoderKL"),
            "text_encoder": ("transformers", "Qwen3Model"),
        },
        others=("scheduler", "tokenizer"),
        # Before, on another grid, whose last step was of no length.
        since=(0, 39),
    )
    text_kind: ClassVar[type[Qwen3Text]] = ZImageText
    lora_targets: ClassVar[tuple[str, ...]] = ("to_q", "to_k", "to_v", "to_out.0")
    folded: ClassVar[int] = 1

    text: ZImageText

    def predicted(self, latents: Tensor, timestep: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
        """The transformer's velocity, given ``tokens`` (B, L, D) and ``lengths`` (B,).

        It counts time from noise to picture and predicts the opposite velocity.
        """
        lengths = tensors[LENGTHS].tolist()
        rows = [row[:length] for row, length in zip(tensors["tokens"], lengths, strict=True)]
        frames = list(latents.unsqueeze(2))
        found = self.transformer(frames, (1000 - timestep) / 1000, rows, return_dict=False)[0]
        return -torch.stack(found).squeeze(2)

    @classmethod
    def picture_sizes(cls, transformer: Mapping[str, Any], vae: Mapping[str, Any]) -> PictureSizes:
        """Sides that divide into patches and are within the positional embedding."""
        multiple = pixels_per_latent(vae) * cls.patch(transformer)
        return PictureSizes(multiple, min(transformer["axes_lens"][1:]) * multiple)

    def plain_guidance(self, guidance: float, negative_prompt: str) -> Mapping[str, Any] | None:
        """ZImagePipeline's arguments: its ``guidance_scale`` is one less."""
        given = super().plain_guidance(guidance, negative_prompt)
        return given and {**given, "guidance_scale": round(guidance - 1, 6)}
