"""FLUX.1 as a backbone, over diffusers' own components."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import attrs
import torch

from flowbp.adapters.attention import avoid_cudnn
from flowbp.adapters.backbone import Conditioning
from flowbp.adapters.checkpointing import Checkpointing
from flowbp.adapters.clamp import Clamp, hard_clamp
from flowbp.adapters.decode import LatentDecoder, check_channels
from flowbp.adapters.diffusers_backbone import (
    JOINT_ATTENTION,
    DiffusersBackbone,
)
from flowbp.adapters.flux1_text import Flux1Text
from flowbp.adapters.flux1_velocity import Flux1Velocity
from flowbp.adapters.layout import Layout
from flowbp.adapters.loading import load_pipeline
from flowbp.adapters.packing import PATCH
from flowbp.adapters.policy import FLOAT32, DtypePolicy
from flowbp.adapters.sizes import PictureSizes, pixels_per_latent
from flowbp.core import VelocityField

if TYPE_CHECKING:
    from diffusers import FluxPipeline

_LAYOUT = Layout(
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

# As in the training script of diffusers.
_FEED_FORWARD = ("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2")

DEFAULT_GUIDANCE = 3.5
"""The pipeline's own default of `embedded_guidance`."""


@attrs.frozen(kw_only=True, eq=False)
class Flux1Backbone(DiffusersBackbone):
    """FLUX.1 dev or schnell as `Backbone`; build it with `from_pretrained` or `from_pipeline`.

    Latents are those of the VAE, (B, 16, H/8, W/8); packing is the velocity's own affair.

    Dev was distilled to do guidance in a single evaluation: `embedded_guidance` is what its
    guidance embedding is told. It is independent of classifier-free guidance, which needs a
    negative prompt and a second evaluation and is set where one samples; with both, both
    evaluations are told the same, as FluxPipeline does under ``true_cfg_scale``.

    Args:
        transformer: A diffusers FluxTransformer2DModel.
        text: The text encoders.
        decoder: The VAE.
        scheduler: Where the sigmas come from.
        policy: Dtypes of the transformer.
        device: Where it runs.
        gradient_checkpointing: Recompute each block in the backward pass to save memory; under
            `auto` a run does where it has to.
        embedded_guidance: What the guidance embedding is told; None is 3.5, the pipeline's
            default, or nothing where the transformer has no such embedding.

    Raises:
        TypeError: A scheduler of another kind.
        ValueError: Components that do not fit together, an `embedded_guidance` that is no finite
            number, or one for a transformer that would ignore it.

    Example:
        >>> Flux1Backbone.from_pretrained("/no/such/folder", embedded_guidance=4.0)
        Traceback (most recent call last):
            ...
        FileNotFoundError: `source` must be a folder or a hub id like owner/name, got \
'/no/such/folder'; there is no folder /no/such/folder
    """

    layout: ClassVar[Layout] = _LAYOUT
    lora_targets: ClassVar[tuple[str, ...]] = (*JOINT_ATTENTION, *_FEED_FORWARD)

    text: Flux1Text
    embedded_guidance: float | None = None

    def __attrs_post_init__(self) -> None:
        DiffusersBackbone.__attrs_post_init__(self)
        avoid_cudnn(self.transformer, self.policy, self.device)

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike[str],
        *,
        policy: DtypePolicy = FLOAT32,
        frozen_policy: DtypePolicy | None = None,
        device: torch.device | str = "cpu",
        embedded_guidance: float | None = None,
        text_length: int = 512,
        decode_batch: int | None = None,
        clamp: Clamp = hard_clamp,
        gradient_checkpointing: Checkpointing = "auto",
    ) -> Flux1Backbone:
        """Load a hub id or a local folder in diffusers layout.

        Args:
            source: ``owner/name`` or a folder with a model_index.json.
            policy: See `from_pipeline`, here and below.
            frozen_policy: Dtypes of VAE and text encoders.
            device: Where everything runs; on ``meta`` no weights are read.
            embedded_guidance: What the guidance embedding is told.
            text_length: T5 positions, the pipeline's max_sequence_length.
            decode_batch: Samples decoded at a time.
            clamp: How decoded pixels are brought into [0, 1].
            gradient_checkpointing: Recompute each block in the backward pass; under `auto` a
                run does where it has to.

        Returns:
            The backbone, all parameters of the transformer trainable.

        Raises:
            ModuleNotFoundError: diffusers or transformers is not installed.
            FileNotFoundError: No such source, or a component's folder is missing.
            ValueError: Another pipeline class, a component the source does not have, or an
                illegal value of another argument, or weights that are damaged or incomplete.
        """
        frozen_dtype = (frozen_policy or policy.frozen).weights
        pipeline = load_pipeline(
            source,
            _LAYOUT,
            dtype=policy.weights,
            frozen_dtype=frozen_dtype,
            weights=torch.device(device).type != "meta",
        )
        backbone = cls.from_pipeline(
            pipeline,
            policy=policy,
            frozen_policy=frozen_policy,
            device=device,
            embedded_guidance=embedded_guidance,
            text_length=text_length,
            decode_batch=decode_batch,
            clamp=clamp,
            gradient_checkpointing=gradient_checkpointing,
        )
        backbone.reload_encoders_from(source, _LAYOUT, frozen_dtype)
        return backbone

    @classmethod
    def from_pipeline(
        cls,
        pipeline: FluxPipeline,
        *,
        policy: DtypePolicy = FLOAT32,
        frozen_policy: DtypePolicy | None = None,
        device: torch.device | str = "cpu",
        embedded_guidance: float | None = None,
        text_length: int = 512,
        decode_batch: int | None = None,
        clamp: Clamp = hard_clamp,
        gradient_checkpointing: Checkpointing = "auto",
    ) -> Flux1Backbone:
        """Take over the components of a pipeline; they are moved, cast and frozen in place.

        Args:
            pipeline: A FluxPipeline.
            policy: Dtypes of the transformer.
            frozen_policy: Dtypes of VAE and text encoders; None keeps them in `policy.compute`,
                which is also what `save` then writes.
            device: Where everything runs.
            embedded_guidance: What the guidance embedding is told; None is the pipeline's
                default where there is such an embedding.
            text_length: T5 positions, the pipeline's max_sequence_length.
            decode_batch: Samples decoded at a time; None is the whole batch.
            clamp: How decoded pixels are brought into [0, 1].
            gradient_checkpointing: Recompute each block in the backward pass; under `auto` a
                run does where it has to.

        Returns:
            The backbone.

        Raises:
            ValueError: An illegal value, or components that do not fit together.
        """
        parts: dict[str, Any] = pipeline.components
        frozen_policy = frozen_policy or policy.frozen
        text = Flux1Text.from_components(
            parts, text_length=text_length, policy=frozen_policy, device=device
        )
        decoder = LatentDecoder(
            vae=parts["vae"],
            policy=frozen_policy,
            device=device,
            decode_batch=decode_batch,
            clamp=clamp,
        )
        return cls(
            transformer=parts["transformer"],
            text=text,
            decoder=decoder,
            scheduler=parts["scheduler"],
            policy=policy,
            device=device,
            embedded_guidance=embedded_guidance,
            gradient_checkpointing=gradient_checkpointing,
        )

    def image_tokens(self, height: int, width: int) -> int:
        """The patches of a picture of `height` x `width` pixels."""
        _, rows, columns = self.latent_shape(height, width)
        return (rows // PATCH) * (columns // PATCH)

    def velocity(self, conditioning: Conditioning) -> VelocityField:
        """The velocity field under `conditioning`: (B, C, h, w) and sigma to (B, C, h, w)."""
        return Flux1Velocity(
            transformer=self.transformer,
            conditioning=conditioning,
            policy=self.policy,
            train_timesteps=self.scheduler.config["num_train_timesteps"],
            guidance=self.told_guidance,
        )

    @property
    def told_guidance(self) -> float | None:
        """What the guidance embedding is told; None where the transformer has none."""
        if self.embedded_guidance is None and self.transformer.config["guidance_embeds"]:
            return DEFAULT_GUIDANCE
        return self.embedded_guidance

    @property
    def facts(self) -> Mapping[str, Any]:
        """What a picture depends on that the model or a default decides."""
        return {**super().facts, "embedded_guidance": self.told_guidance}

    @classmethod
    def guidance_fault(
        cls,
        guidance: float,
        read: Callable[[str], Mapping[str, Any]],
        options: Mapping[str, Any],
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
        told = {} if self.told_guidance is None else {"guidance_scale": self.told_guidance}
        if guidance == 1:
            return told
        return {**told, "true_cfg_scale": guidance, "negative_prompt": negative_prompt}

    def check_components(self) -> None:
        """Refuse a VAE of another model, and a guidance that nothing would read."""
        config, guidance = self.transformer.config, self.embedded_guidance
        check_channels(self.decoder, config["in_channels"], folded=PATCH**2)
        if guidance is None:
            return
        if not math.isfinite(guidance):
            raise ValueError(f"`embedded_guidance` must be a finite number, got {guidance}")
        if not config["guidance_embeds"]:
            raise ValueError(
                f"`embedded_guidance` must be None for a transformer without a guidance embedding "
                f"(guidance_embeds is false in its config.json, as in schnell), got {guidance:g}; "
                "leave it out, or use classifier-free guidance when sampling"
            )

    @classmethod
    def picture_sizes(cls, transformer: Mapping[str, Any], vae: Mapping[str, Any]) -> PictureSizes:
        """Sides that divide into patches."""
        return PictureSizes(pixels_per_latent(vae) * PATCH)

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """The (C, h, w) of a picture."""
        self.check_size(height, width)
        scale = self.decoder.scale_factor
        channels: int = self.transformer.config["in_channels"] // PATCH**2
        return channels, height // scale, width // scale

    def pipeline_parts(self) -> Mapping[str, Any]:
        """Nothing: the pipeline needs no more than the components."""
        return {}
