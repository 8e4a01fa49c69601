"""Stable Diffusion 3 and 3.5 as a backbone, over diffusers' own components."""

from __future__ import annotations

import os
from collections.abc import Mapping
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
from flowbp.adapters.layout import Layout
from flowbp.adapters.loading import load_pipeline
from flowbp.adapters.policy import FLOAT32, DtypePolicy
from flowbp.adapters.sd3_text import SD3Text
from flowbp.adapters.sd3_velocity import SD3Velocity
from flowbp.adapters.sizes import PictureSizes, pixels_per_latent
from flowbp.adapters.text_tower import TextTower
from flowbp.core import VelocityField

if TYPE_CHECKING:
    from diffusers import StableDiffusion3Pipeline

_LAYOUT = Layout(
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


@attrs.frozen(kw_only=True, eq=False)
class SD3Backbone(DiffusersBackbone):
    """Stable Diffusion 3 as `Backbone`; build it with `from_pretrained` or `from_pipeline`.

    Construction moves the transformer to `device`, casts it to `policy.weights` and sets it to
    evaluation mode; which of its parameters require a gradient stays as it was.

    Args:
        transformer: A diffusers SD3Transformer2DModel.
        text: The text encoders.
        decoder: The VAE.
        scheduler: Where the sigmas come from.
        policy: Dtypes of the transformer.
        device: Where it runs.
        gradient_checkpointing: Recompute each block in the backward pass to save memory; under
            `auto` a run does where it has to.

    Raises:
        TypeError: A scheduler of another kind.
        ValueError: Components that do not fit together.

    Example:
        >>> SD3Backbone.from_pretrained("/no/such/folder")
        Traceback (most recent call last):
            ...
        FileNotFoundError: `source` must be a folder or a hub id like owner/name, got \
'/no/such/folder'; there is no folder /no/such/folder
    """

    layout: ClassVar[Layout] = _LAYOUT
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
        """Load a hub id or a local folder in diffusers layout.

        Args:
            source: ``owner/name`` or a folder with a model_index.json.
            policy: See `from_pipeline`, here and below.
            frozen_policy: Dtypes of VAE and text encoders.
            device: Where everything runs; on ``meta`` no weights are read.
            text_length: T5 positions, the pipeline's max_sequence_length.
            use_t5: True needs a T5, False leaves it out, None takes it where the source's index
                names one, which must be there then.
            decode_batch: Samples decoded at a time.
            clamp: How decoded pixels are brought into [0, 1].
            gradient_checkpointing: Recompute each block in the backward pass; under `auto` a
                run does where it has to.

        Returns:
            The backbone, all parameters of the transformer trainable.

        Raises:
            ModuleNotFoundError: diffusers or transformers is not installed.
            FileNotFoundError: No such source, or a component's folder is missing.
            ValueError: Another pipeline class, a component or T5 the source does not have, or an
                illegal value of another argument, or weights that are damaged or incomplete.
        """
        frozen_dtype = (frozen_policy or policy.frozen).weights
        pipeline = load_pipeline(
            source,
            _LAYOUT,
            dtype=policy.weights,
            frozen_dtype=frozen_dtype,
            optional=use_t5,
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
        pipeline: StableDiffusion3Pipeline,
        *,
        policy: DtypePolicy = FLOAT32,
        frozen_policy: DtypePolicy | None = None,
        device: torch.device | str = "cpu",
        text_length: int = 256,
        decode_batch: int | None = None,
        clamp: Clamp = hard_clamp,
        gradient_checkpointing: Checkpointing = "auto",
    ) -> SD3Backbone:
        """Take over the components of a pipeline; they are moved, cast and frozen in place.

        Args:
            pipeline: A StableDiffusion3Pipeline; without text_encoder_3 the T5 is left out.
            policy: Dtypes of the transformer.
            frozen_policy: Dtypes of VAE and text encoders; None keeps them in `policy.compute`,
                which is also what `save` then writes.
            device: Where everything runs.
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
        config = parts["transformer"].config
        text = SD3Text(
            clip=TextTower(parts["text_encoder"], parts["tokenizer"]),
            clip_2=TextTower(parts["text_encoder_2"], parts["tokenizer_2"]),
            t5=parts["text_encoder_3"] and TextTower(parts["text_encoder_3"], parts["tokenizer_3"]),
            width=config["joint_attention_dim"],
            pooled_width=config["pooled_projection_dim"],
            text_length=text_length,
            policy=frozen_policy,
            device=device,
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
            gradient_checkpointing=gradient_checkpointing,
        )

    def image_tokens(self, height: int, width: int) -> int:
        """The patches of a picture of `height` x `width` pixels."""
        _, rows, columns = self.latent_shape(height, width)
        patch: int = self.transformer.config["patch_size"]
        return (rows // patch) * (columns // patch)

    def velocity(self, conditioning: Conditioning) -> VelocityField:
        """The velocity field under `conditioning`: (B, C, h, w) and sigma to (B, C, h, w)."""
        return SD3Velocity(
            transformer=self.transformer,
            conditioning=conditioning,
            policy=self.policy,
            train_timesteps=self.scheduler.config["num_train_timesteps"],
        )

    def check_components(self) -> None:
        """Refuse a VAE of another model."""
        check_channels(self.decoder, self.transformer.config["in_channels"])

    @classmethod
    def picture_sizes(cls, transformer: Mapping[str, Any], vae: Mapping[str, Any]) -> PictureSizes:
        """Sides that divide into patches and are within the positional embedding."""
        multiple = pixels_per_latent(vae) * transformer["patch_size"]
        return PictureSizes(multiple, (transformer["pos_embed_max_size"] or 0) * multiple or None)

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """The (C, h, w) of a picture."""
        self.check_size(height, width)
        scale = self.decoder.scale_factor
        return self.transformer.config["in_channels"], height // scale, width // scale

    def pipeline_parts(self) -> Mapping[str, Any]:
        """None for the parts of a T5 that is not there.

        diffusers then wants ``text_encoder_3=None, tokenizer_3=None`` in ``from_pretrained``.
        """
        absent = _LAYOUT.optional if self.text.t5 is None else ()
        return dict.fromkeys(absent)
