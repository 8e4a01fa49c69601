"""FLUX.2 klein as a backbone, over diffusers' own components."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import attrs
import torch

from flowbp.adapters.backbone import Conditioning
from flowbp.adapters.checkpointing import Checkpointing
from flowbp.adapters.clamp import Clamp, hard_clamp
from flowbp.adapters.decode import LatentDecoder, check_channels
from flowbp.adapters.diffusers_backbone import (
    JOINT_ATTENTION,
    DiffusersBackbone,
)
from flowbp.adapters.flux2_text import Flux2Text
from flowbp.adapters.flux2_velocity import Flux2Velocity
from flowbp.adapters.layout import Layout
from flowbp.adapters.loading import load_pipeline
from flowbp.adapters.packing import PATCH
from flowbp.adapters.policy import FLOAT32, DtypePolicy
from flowbp.adapters.sigmas import Shift, empirical_shift
from flowbp.adapters.sizes import PictureSizes, pixels_per_latent
from flowbp.adapters.text_tower import TextTower
from flowbp.adapters.unscale import batch_normalised
from flowbp.core import VelocityField

if TYPE_CHECKING:
    from diffusers import Flux2KleinPipeline

_LAYOUT = Layout(
    pipeline="Flux2KleinPipeline",
    models={
        "transformer": ("diffusers", "Flux2Transformer2DModel"),
        "vae": ("diffusers", "AutoencoderKLFlux2"),
        "text_encoder": ("transformers", "Qwen3ForCausalLM"),
    },
    others=("scheduler", "tokenizer"),
)

# Attention and feed-forward are one product there, on the way in and on the way out.
_SINGLE_BLOCKS = ("to_qkv_mlp_proj", "to_out")


@attrs.frozen(kw_only=True, eq=False)
class Flux2Backbone(DiffusersBackbone):
    """FLUX.2 klein as `Backbone`; build it with `from_pretrained` or `from_pipeline`.

    Latents are (B, 128, H/16, W/16): 2x2 patches of the VAE's 32 channels, each channel
    normalised by the VAE's batch-norm statistics, which decoding undoes.

    The base checkpoints are made for classifier-free guidance. Those that were distilled to a few
    steps are not: the diffusers pipeline ignores a guidance scale for them, and one should sample
    them with guidance 1.

    Args:
        transformer: A diffusers Flux2Transformer2DModel without a guidance embedding.
        text: The text encoder.
        decoder: The VAE.
        scheduler: Where the sigmas come from.
        policy: Dtypes of the transformer.
        device: Where it runs.
        gradient_checkpointing: Recompute each block in the backward pass to save memory; under
            `auto` a run does where it has to.
        distilled: Whether the checkpoint says it was distilled; written by `save`.

    Raises:
        TypeError: A scheduler of another kind.
        ValueError: Components that do not fit together.

    Example:
        >>> Flux2Backbone.from_pretrained("/no/such/folder")
        Traceback (most recent call last):
            ...
        FileNotFoundError: `source` must be a folder or a hub id like owner/name, got \
'/no/such/folder'; there is no folder /no/such/folder
    """

    layout: ClassVar[Layout] = _LAYOUT
    lora_targets: ClassVar[tuple[str, ...]] = (*JOINT_ATTENTION, *_SINGLE_BLOCKS)
    dynamic_shift: ClassVar[Shift] = staticmethod(empirical_shift)

    text: Flux2Text
    distilled: bool = False

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike[str],
        *,
        policy: DtypePolicy = FLOAT32,
        frozen_policy: DtypePolicy | None = None,
        device: torch.device | str = "cpu",
        text_length: int = 512,
        decode_batch: int | None = None,
        clamp: Clamp = hard_clamp,
        gradient_checkpointing: Checkpointing = "auto",
    ) -> Flux2Backbone:
        """Load a hub id or a local folder in diffusers layout.

        Args:
            source: ``owner/name`` or a folder with a model_index.json.
            policy: See `from_pipeline`, here and below.
            frozen_policy: Dtypes of VAE and text encoder.
            device: Where everything runs; on ``meta`` no weights are read.
            text_length: Tokens, the pipeline's max_sequence_length.
            decode_batch: Samples decoded at a time.
            clamp: How decoded pixels are brought into [0, 1].
            gradient_checkpointing: Recompute each block in the backward pass; under `auto` a
                run does where it has to.

        Returns:
            The backbone, all parameters of the transformer trainable.

        Raises:
            ModuleNotFoundError: diffusers or transformers is not installed.
            ImportError: The installed diffusers does not know FLUX.2 klein.
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
        pipeline: Flux2KleinPipeline,
        *,
        policy: DtypePolicy = FLOAT32,
        frozen_policy: DtypePolicy | None = None,
        device: torch.device | str = "cpu",
        text_length: int = 512,
        decode_batch: int | None = None,
        clamp: Clamp = hard_clamp,
        gradient_checkpointing: Checkpointing = "auto",
    ) -> Flux2Backbone:
        """Take over the components of a pipeline; they are moved, cast and frozen in place.

        Args:
            pipeline: A Flux2KleinPipeline.
            policy: Dtypes of the transformer.
            frozen_policy: Dtypes of VAE and text encoder; None keeps them in `policy.compute`,
                which is also what `save` then writes.
            device: Where everything runs.
            text_length: Tokens, chat template included; the pipeline's max_sequence_length.
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
        text = Flux2Text(
            qwen=TextTower(parts["text_encoder"], parts["tokenizer"]),
            width=parts["transformer"].config["joint_attention_dim"],
            text_length=text_length,
            policy=frozen_policy,
            device=device,
        )
        decoder = LatentDecoder(
            vae=parts["vae"],
            unscale=batch_normalised,
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
            gradient_checkpointing=gradient_checkpointing,
            distilled=bool(pipeline.config["is_distilled"]),
        )

    def image_tokens(self, height: int, width: int) -> int:
        """The patches of a picture of `height` x `width` pixels."""
        _, rows, columns = self.latent_shape(height, width)
        return rows * columns

    def velocity(self, conditioning: Conditioning) -> VelocityField:
        """The velocity field under `conditioning`: (B, C, h, w) and sigma to (B, C, h, w)."""
        return Flux2Velocity(
            transformer=self.transformer,
            conditioning=conditioning,
            policy=self.policy,
            train_timesteps=self.scheduler.config["num_train_timesteps"],
        )

    @classmethod
    def guidance_fault(
        cls,
        guidance: float,
        read: Callable[[str], Mapping[str, Any]],
        options: Mapping[str, Any],
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
        config = self.transformer.config
        check_channels(self.decoder, config["in_channels"], folded=PATCH**2)
        if config["guidance_embeds"]:
            raise ValueError(
                "`transformer` must have guidance_embeds=False in its configuration, got True; "
                "that is FLUX.2 dev, and this adapter is for FLUX.2 klein"
            )

    @classmethod
    def picture_sizes(cls, transformer: Mapping[str, Any], vae: Mapping[str, Any]) -> PictureSizes:
        """Sides that divide into patches."""
        return PictureSizes(pixels_per_latent(vae) * PATCH)

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """The (C, h, w) of a picture."""
        self.check_size(height, width)
        patch = self.decoder.scale_factor * PATCH
        return self.transformer.config["in_channels"], height // patch, width // patch

    def pipeline_parts(self) -> Mapping[str, Any]:
        """Whether the checkpoint was distilled."""
        return {"is_distilled": self.distilled}
