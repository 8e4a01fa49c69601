"""FLUX.1 as a backbone, over diffusers' own components."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor

from flowbp.adapters.backbone import Conditioning
from flowbp.adapters.diffusers_backbone import JOINT_ATTENTION, DiffusersBackbone, ReadConfig
from flowbp.adapters.diffusers_components import with_shared_options
from flowbp.adapters.latents import (
    from_sequence,
    grid_ids,
    patchify,
    to_sequence,
    unpatchify,
)
from flowbp.adapters.pipeline_layout import Layout
from flowbp.adapters.text_encoders import (
    MAX_T5_LENGTH,
    PromptEncoder,
    TextTower,
    check_encoder_width,
    check_positions,
    check_text_length,
)

DEFAULT_GUIDANCE = 3.5
"""The pipeline's own default of `embedded_guidance`."""

# As in the training script of diffusers.
_FEED_FORWARD = ("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2")
_AXES = 3


@attrs.frozen(kw_only=True, eq=False)
class Flux1Text(PromptEncoder):
    """Encodes prompts exactly as FluxPipeline does.

    ``tokens`` (B, text_length, width): the last hidden states of T5. ``pooled`` (B, P): the pooled
    output of CLIP, which reads the first 77 tokens or as many as its tokenizer gives.
    """

    family: ClassVar[str] = "flux1"
    components: ClassVar[Mapping[str, str]] = {"clip": "text_encoder", "t5": "text_encoder_2"}

    clip: TextTower
    t5: TextTower
    width: int
    pooled_width: int

    def check(self) -> None:
        """Refuse a length or encoders of another model."""
        check_text_length(self.text_length, most=MAX_T5_LENGTH)
        check_positions("clip", self.clip, self.clip.tokenizer.model_max_length)
        check_encoder_width("clip", self.clip, "hidden_size", self.pooled_width)
        check_encoder_width("t5", self.t5, "d_model", self.width)

    def encoded(self, prompts: Sequence[str]) -> Conditioning:
        """Encode B prompts to ``tokens`` and ``pooled``."""
        tokens = self.run_t5(self.t5, prompts)
        ids, _ = self.clip.tokens(prompts, self.clip.tokenizer.model_max_length)
        pooled = self.run(self.clip.encoder, ids).pooler_output
        return Conditioning({"tokens": tokens, "pooled": pooled})


@attrs.frozen(kw_only=True, eq=False)
class Flux1Backbone(DiffusersBackbone):
    """FLUX.1 dev or schnell as `Backbone`.

    Latents are those of the VAE, (B, 16, H/8, W/8).

    Dev was distilled to do guidance in a single evaluation: `embedded_guidance` is what its
    guidance embedding is given. It is independent of classifier-free guidance, which needs a
    negative prompt and a second evaluation and is set where one samples; with both, both
    evaluations are given the same, as FluxPipeline does under ``true_cfg_scale``.

    Args:
        embedded_guidance: None is 3.5, the pipeline's default, or nothing where the transformer
            has no such embedding. The others: see `DiffusersBackbone`.

    Raises:
        ValueError: Components that do not fit together, an `embedded_guidance` that is no finite
            number, or one for a transformer that would ignore it.

    Example:
        >>> Flux1Backbone.from_pretrained("/no/such/folder", embedded_guidance=4.0)
        Traceback (most recent call last):
            ...
        FileNotFoundError: `source` must be a folder or a hub id like owner/name, got \
'/no/such/folder'; there is no folder /no/such/folder
    """

    layout: ClassVar[Layout] = Layout(
        pipeline="FluxPipeline",
        models={
            "transformer": ("diffusers", "FluxTransformer2DModel"),
            "vae": ("diffusers", "AutoencoderKL"),
            "text_encoder": ("transformers", "CLIPTextModel"),
            "text_encoder_2": ("transformers", "T5EncoderModel"),
        },
        others=("scheduler", "tokenizer", "tokenizer_2"),
        unused=("image_encoder", "feature_extractor"),
    )
    text_kind: ClassVar[type[PromptEncoder]] = Flux1Text
    lora_targets: ClassVar[tuple[str, ...]] = (*JOINT_ATTENTION, *_FEED_FORWARD)

    text: Flux1Text
    embedded_guidance: float | None = None

    @classmethod
    @with_shared_options
    def from_pretrained(
        cls,
        source: str | os.PathLike[str],
        *,
        transformer: str | os.PathLike[str] | None = None,
        embedded_guidance: float | None = None,
        **shared: Any,
    ) -> Flux1Backbone:
        """Load a hub id or a local folder.

        Args:
            source: ``owner/name`` or a folder with a model_index.json.
            transformer: A ``.safetensors`` file with the transformer, as its publisher or
                diffusers writes it, in place of the source's, whose configuration it must fit.
            embedded_guidance: What the guidance embedding of dev is given, None for the pipeline's
                3.5; a transformer without such an embedding takes none.
            **shared: See `DiffusersComponents.from_pretrained`.
        """
        return cls._load(
            source, transformer=transformer, embedded_guidance=embedded_guidance, **shared
        )

    def predicted(self, latents: Tensor, timestep: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
        """The transformer's velocity, given ``tokens`` (B, L, D) and ``pooled`` (B, P).

        The latents are those of the VAE; they are packed into 2x2 patches for the transformer
        alone. The timestep reaches it in float32; where its weights or products are bfloat16 it
        rounds it itself, to 4 steps of 1000, as in the diffusers pipeline.
        """
        device, count, guidance = latents.device, len(latents), self.guidance_input
        tokens, patches = tensors["tokens"], patchify(latents)
        rows, columns = patches.shape[-2:]
        output = self.transformer(
            hidden_states=to_sequence(patches),
            # The transformer multiplies by 1000 whatever the scheduler counts.
            timestep=timestep / 1000,
            guidance=None if guidance is None else torch.full((count,), guidance, device=device),
            encoder_hidden_states=tokens,
            pooled_projections=tensors["pooled"],
            txt_ids=torch.zeros(tokens.shape[1], _AXES, device=device),
            img_ids=grid_ids(rows, columns, axes=_AXES, device=device),
            return_dict=False,
        )[0]
        return unpatchify(from_sequence(output, rows))

    @property
    def guidance_input(self) -> float | None:
        """What the guidance embedding is given; None where the transformer has none."""
        if self.embedded_guidance is None and self.transformer.config["guidance_embeds"]:
            return DEFAULT_GUIDANCE
        return self.embedded_guidance

    @property
    def facts(self) -> Mapping[str, Any]:
        """What a picture depends on that the model or a default decides."""
        return {**super().facts, "embedded_guidance": self.guidance_input}

    @classmethod
    def guidance_fault(
        cls, guidance: float, read: ReadConfig, options: Mapping[str, Any]
    ) -> str | None:
        """That dev is guided already, and schnell is to be sampled without guidance."""
        if guidance == 1:
            return None
        if not read("transformer")["guidance_embeds"]:
            if read("scheduler").get("use_dynamic_shifting"):
                return None
            return (
                f"is {guidance:g}, and the model has neither a guidance embedding nor dynamic "
                "shifting, as schnell, which was distilled to be sampled with guidance 1; write 1, "
                "unless this is a base checkpoint"
            )
        given = options.get("embedded_guidance")
        embedded = DEFAULT_GUIDANCE if given is None else given
        if embedded <= 1:
            return None
        return (
            f"is {guidance:g}, on top of an embedded guidance of {embedded:g}: the model was "
            "distilled to do guidance in a single evaluation, and now guides twice at twice the "
            "cost; write 1 and set the strength as backbone.embedded_guidance, or write "
            "backbone.embedded_guidance=1 for classifier-free guidance alone"
        )

    def plain_guidance(self, guidance: float, negative_prompt: str) -> Mapping[str, Any] | None:
        """FluxPipeline's arguments: its ``guidance_scale`` is the embedded guidance."""
        if guidance < 1:
            return None
        given = {} if self.guidance_input is None else {"guidance_scale": self.guidance_input}
        if guidance == 1:
            return given
        return {**given, "true_cfg_scale": guidance, "negative_prompt": negative_prompt}

    def check_components(self) -> None:
        """Refuse a VAE of another model, and a guidance that nothing would read."""
        super().check_components()
        guidance = self.embedded_guidance
        if guidance is None:
            return
        if not math.isfinite(guidance):
            raise ValueError(f"`embedded_guidance` must be a finite number, got {guidance}")
        if not self.transformer.config["guidance_embeds"]:
            raise ValueError(
                f"`embedded_guidance` must be None for a transformer without a guidance embedding "
                f"(guidance_embeds is false in its config.json, as in schnell), got {guidance:g}; "
                "leave it out, or use classifier-free guidance when sampling"
            )
