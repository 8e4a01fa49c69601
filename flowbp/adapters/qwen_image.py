"""Qwen-Image as a backbone, over diffusers' own components."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor

from flowbp.adapters.backbone import LENGTHS, Conditioning
from flowbp.adapters.decoder import Unscale, channel_normalised
from flowbp.adapters.diffusers_backbone import JOINT_ATTENTION, DiffusersBackbone
from flowbp.adapters.latents import PATCH, from_sequence, patchify, to_sequence, unpatchify
from flowbp.adapters.pipeline_layout import Layout
from flowbp.adapters.text_encoders import (
    PromptEncoder,
    TextTower,
    check_encoder_width,
    check_text_length,
    longer_text,
    unpadded,
)
from flowbp.core import Rescale

_BEFORE = (
    "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, "
    "quantity, text, spatial relationships of the objects and background:<|im_end|>\n"
    "<|im_start|>user\n"
)
_AFTER = "<|im_end|>\n<|im_start|>assistant\n"
# The tokens of the former, whose states the pipeline leaves out.
_LEFT_OUT = 34
_MOST = 1024


@attrs.frozen(kw_only=True, eq=False)
class QwenImageText(PromptEncoder):
    """Encodes prompts exactly as QwenImagePipeline does.

    A prompt is written into the pipeline's own template. ``tokens`` (B, text_length, width): the
    last states of the Qwen2.5-VL from the prompt on, zero beyond the prompt's own; ``lengths``
    (B,): how many these are.
    """

    family: ClassVar[str] = "qwen_image"
    components: ClassVar[Mapping[str, str]] = {"qwen": "text_encoder"}

    qwen: TextTower
    width: int

    def check(self) -> None:
        """Refuse a length or an encoder of another model."""
        check_text_length(self.text_length, most=_MOST)
        check_encoder_width("qwen", self.qwen, "hidden_size", self.width)

    @property
    def read(self) -> Mapping[str, int]:
        """The tokens of a prompt with its template, whose first ones are left out afterwards."""
        return {"text_encoder": self.text_length + _LEFT_OUT}

    @property
    def cure(self) -> str:
        """What to do about prompts that are cut."""
        return longer_text(self.text_length, _MOST)

    def written(self, prompt: str) -> str:
        """A prompt in the pipeline's template."""
        return f"{_BEFORE}{prompt}{_AFTER}"

    def encoded(self, prompts: Sequence[str]) -> Conditioning:
        """Encode B prompts to ``tokens`` and ``lengths``."""
        written, length = [self.written(each) for each in prompts], self.read["text_encoder"]
        ids, mask = self.qwen.tokens(written, length, cure=self.cure)
        # Without the head: the logits of 512 tokens would be 300 MB for each prompt.
        output = self.run(self.qwen.encoder.model, ids, attention_mask=mask, use_cache=False)
        states = unpadded(output.last_hidden_state, mask)[:, _LEFT_OUT:]
        return Conditioning({"tokens": states.contiguous(), LENGTHS: mask.sum(1) - _LEFT_OUT})


def patch_norms_kept(guided: Tensor, positive: Tensor) -> Tensor:
    """The guided velocity (B, C, h, w), each 2x2 patch of the norm that it has in `positive`.

    A patch that is zero stays so.
    """
    norms = _patch_norms(guided)
    known = norms > 0
    factors = torch.where(known, _patch_norms(positive) / torch.where(known, norms, 1), 1)
    return guided * factors.repeat_interleave(PATCH, -2).repeat_interleave(PATCH, -1)


def _patch_norms(velocity: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(patchify(velocity), dim=1, keepdim=True)
    return norms


@attrs.frozen(kw_only=True, eq=False)
class QwenImageBackbone(DiffusersBackbone):
    """Qwen-Image as `Backbone`; build it with `from_pretrained` or `from_pipeline`.

    Latents are those of the VAE, (B, 16, H/8, W/8), of its single frame; it is one of videos. The
    transformer reads as many text tokens as the longest prompt of a call has, so that a call takes
    longer for longer prompts.

    Under guidance the pipeline brings the velocity of each 2x2 patch back to the norm of v⁺, and so
    does this. The guided velocity is then not linear in its branches: each pull evaluates v⁻ once
    more, without gradient where it is detached.

    Its arguments are those of `DiffusersBackbone`.

    Example:
        >>> QwenImageBackbone.from_pretrained("/no/such/folder")
        Traceback (most recent call last):
            ...
        FileNotFoundError: `source` must be a folder or a hub id like owner/name, got \
'/no/such/folder'; there is no folder /no/such/folder
    """

    layout: ClassVar[Layout] = Layout(
        pipeline="QwenImagePipeline",
        models={
            "transformer": ("diffusers", "QwenImageTransformer2DModel"),
            "vae": ("diffusers", "AutoencoderKLQwenImage"),
            "text_encoder": ("transformers", "Qwen2_5_VLForConditionalGeneration"),
        },
        others=("scheduler", "tokenizer"),
    )
    text_kind: ClassVar[type[PromptEncoder]] = QwenImageText
    unscale: ClassVar[Unscale] = staticmethod(channel_normalised)
    lora_targets: ClassVar[tuple[str, ...]] = JOINT_ATTENTION
    guidance_rescale: ClassVar[Rescale | None] = staticmethod(patch_norms_kept)

    text: QwenImageText

    def predicted(self, latents: Tensor, timestep: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
        """The transformer's velocity, given ``tokens`` (B, L, D) and ``lengths`` (B,).

        The latents are those of the VAE; they are packed into 2x2 patches for the transformer
        alone.
        """
        lengths, patches = tensors[LENGTHS].tolist(), patchify(latents)
        rows, columns = patches.shape[-2:]
        output = self.transformer(
            hidden_states=to_sequence(patches),
            # The transformer multiplies by 1000 whatever the scheduler counts.
            timestep=timestep / 1000,
            encoder_hidden_states=tensors["tokens"][:, : max(lengths)],
            encoder_hidden_states_mask=_mask(lengths, latents.device),
            img_shapes=[[(1, rows, columns)]] * len(latents),
            return_dict=False,
        )[0]
        return unpatchify(from_sequence(output, rows))

    def plain_guidance(self, guidance: float, negative_prompt: str) -> Mapping[str, Any] | None:
        """QwenImagePipeline's arguments; its own default is a guidance of 4."""
        if guidance < 1:
            return None
        given = {"negative_prompt": negative_prompt} if guidance > 1 else {}
        return {"true_cfg_scale": guidance, **given}

    def check_components(self) -> None:
        """Refuse a VAE of another model, and a transformer whose guidance nothing would set."""
        super().check_components()
        if self.transformer.config["guidance_embeds"]:
            raise ValueError(
                "`transformer` must have guidance_embeds=False in its configuration, got True; "
                "this adapter is for Qwen-Image, which has no guidance embedding"
            )


def _mask(lengths: Sequence[int], device: torch.device) -> Tensor | None:
    """Which tokens are a prompt's own (B, L); None where all are."""
    if min(lengths) == max(lengths):
        return None
    mask = torch.zeros(len(lengths), max(lengths), dtype=torch.bool, device=device)
    for row, length in zip(mask, lengths, strict=True):
        row[:length] = True
    return mask
