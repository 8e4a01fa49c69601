"""FLUX.2 klein as a backbone, over diffusers' own components."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import attrs
import torch
from torch import Tensor

from flowbp.adapters.backbone import Conditioning
from flowbp.adapters.decoder import Unscale, batch_normalised
from flowbp.adapters.diffusers_backbone import JOINT_ATTENTION, DiffusersBackbone, ReadConfig
from flowbp.adapters.latents import PATCH, from_sequence, grid_ids, to_sequence
from flowbp.adapters.pipeline_layout import Layout
from flowbp.adapters.qwen3_text import Qwen3Text
from flowbp.adapters.sigmas import Shift, empirical_shift
from flowbp.adapters.text_encoders import PromptEncoder, check_joined_width

_AXES = 4
# Attention and feed-forward are one product there, on the way in and on the way out.
_SINGLE_BLOCKS = ("to_qkv_mlp_proj", "to_out")

HIDDEN_LAYERS = (9, 18, 27)
"""The layers of Qwen3 whose outputs Flux2KleinPipeline reads, 0 being the embedding."""


@attrs.frozen(kw_only=True, eq=False)
class Flux2Text(Qwen3Text):
    """Encodes prompts exactly as Flux2KleinPipeline does.

    A prompt is written as a user's message in the tokenizer's chat template, without thinking.
    ``tokens`` (B, text_length, width): at each position the outputs of `layers`, one after the
    other. The vocabulary's logits are not computed.
    """

    family: ClassVar[str] = "flux2"
    decisive: ClassVar[tuple[str, ...]] = ("text_length", "layers")
    thinking: ClassVar[bool] = False

    layers: tuple[int, ...] = HIDDEN_LAYERS

    def check(self) -> None:
        """Refuse a length, layers or an encoder of another model."""
        super().check()
        config = self.qwen.encoder.config
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

    def encoded(self, prompts: Sequence[str]) -> Conditioning:
        """Encode B prompts to ``tokens``."""
        states, _ = self.hidden_states(prompts)
        return Conditioning({"tokens": torch.cat([states[n] for n in self.layers], dim=-1)})


@attrs.frozen(kw_only=True, eq=False)
class Flux2Backbone(DiffusersBackbone):
    """FLUX.2 klein as `Backbone`, built by `from_pretrained` or `from_pipeline`.

    Latents are (B, 128, H/16, W/16): 2x2 patches of the VAE's 32 channels, each channel
    normalised by the VAE's batch-norm statistics, which decoding undoes.

    The base checkpoints are made for classifier-free guidance. Those that were distilled to a few
    steps are not: the diffusers pipeline ignores a guidance scale for them, and one should sample
    them with guidance 1.

    Args:
        distilled: Whether the checkpoint says it was distilled; written by `save`. The others:
            see `DiffusersBackbone`.

    Example:
        >>> Flux2Backbone.from_pretrained("/no/such/folder")
        Traceback (most recent call last):
            ...
        FileNotFoundError: `source` must be a folder or a hub id like owner/name, got \
'/no/such/folder'; there is no folder /no/such/folder
    """

    layout: ClassVar[Layout] = Layout(
        pipeline="Flux2KleinPipeline",
        models={
            "transformer": ("diffusers", "Flux2Transformer2DModel"),
            "vae": ("diffusers", "AutoencoderKLFlux2"),
            "text_encoder": ("transformers", "Qwen3ForCausalLM"),
        },
        others=("scheduler", "tokenizer"),
    )
    text_kind: ClassVar[type[PromptEncoder]] = Flux2Text
    unscale: ClassVar[Unscale] = staticmethod(batch_normalised)
    lora_targets: ClassVar[tuple[str, ...]] = (*JOINT_ATTENTION, *_SINGLE_BLOCKS)
    dynamic_shift: ClassVar[Shift] = staticmethod(empirical_shift)
    sampled: ClassVar[int] = PATCH

    text: Flux2Text
    distilled: bool = False

    @classmethod
    def from_pipeline(cls, pipeline: Any, **options: Any) -> Self:
        """Take over the components of a pipeline, and whether it says that it was distilled."""
        distilled = bool(pipeline.config["is_distilled"])
        return super().from_pipeline(pipeline, distilled=distilled, **options)

    def predicted(self, latents: Tensor, timestep: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
        """The transformer's velocity, given ``tokens`` (B, L, D).

        Positions have four axes: time (0 without reference pictures), row, column, and the number
        of the text token. The timestep reaches the transformer in float32; where its weights are
        bfloat16 it rounds it itself, to 4 steps of 1000, as in the diffusers pipeline.
        """
        tokens, device = tensors["tokens"], latents.device
        rows, columns = latents.shape[-2:]
        text_ids = torch.zeros(tokens.shape[1], _AXES, device=device)
        text_ids[:, -1] = torch.arange(tokens.shape[1], device=device)
        output = self.transformer(
            hidden_states=to_sequence(latents),
            # The transformer multiplies by 1000 whatever the scheduler counts.
            timestep=timestep / 1000,
            encoder_hidden_states=tokens,
            txt_ids=text_ids,
            img_ids=grid_ids(rows, columns, axes=_AXES, device=device),
            return_dict=False,
        )[0]
        return from_sequence(output, rows)

    @classmethod
    def guidance_fault(
        cls, guidance: float, read: ReadConfig, options: Mapping[str, Any]
    ) -> str | None:
        """That a distilled checkpoint is to be sampled without guidance."""
        if guidance == 1 or not read("model_index").get("is_distilled"):
            return None
        return (
            f"is {guidance:g}, and the checkpoint says that it was distilled, so that it is to be "
            "sampled with guidance 1 (its diffusers pipeline ignores any other); write 1, or name "
            "a base checkpoint as backbone.source"
        )

    def plain_guidance(self, guidance: float, negative_prompt: str) -> Mapping[str, Any] | None:
        """Flux2KleinPipeline's arguments; it has no other negative prompt than the empty one."""
        if guidance < 1 or negative_prompt or (self.distilled and guidance != 1):
            return None
        return {"guidance_scale": guidance}

    def check_components(self) -> None:
        """Refuse a VAE of another model, and a transformer whose guidance nothing would set."""
        super().check_components()
        if self.transformer.config["guidance_embeds"]:
            raise ValueError(
                "`transformer` must have guidance_embeds=False in its configuration, got True; "
                "that is FLUX.2 dev, and this adapter is for FLUX.2 klein"
            )

    def pipeline_parts(self) -> Mapping[str, Any]:
        """Whether the checkpoint was distilled."""
        return {"is_distilled": self.distilled}
