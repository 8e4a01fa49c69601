"""Stable Diffusion 3 and 3.5 as a backbone, over diffusers' own components."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import torch
from torch import Tensor, nn

from flowbp.adapters.backbone import Conditioning
from flowbp.adapters.clamp import Clamp, hard_clamp
from flowbp.adapters.decode import LatentDecoder
from flowbp.adapters.extras import require
from flowbp.adapters.policy import CPU, FLOAT32, DtypePolicy
from flowbp.adapters.saving import save_pipeline
from flowbp.adapters.sd3_source import load_model, load_pipeline
from flowbp.adapters.sd3_text import SD3Text, TextTower
from flowbp.adapters.sd3_velocity import SD3Velocity
from flowbp.adapters.sigmas import check_scheduler, scheduler_sigmas
from flowbp.adapters.sizes import check_size
from flowbp.adapters.text_encoders import TextEncoders
from flowbp.core import VelocityField

if TYPE_CHECKING:
    from diffusers import (
        FlowMatchEulerDiscreteScheduler,
        SD3Transformer2DModel,
        StableDiffusion3Pipeline,
    )


@attrs.frozen(kw_only=True, eq=False)
class SD3Backbone:
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
        gradient_checkpointing: Recompute each block in the backward pass to save memory.

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

    transformer: SD3Transformer2DModel
    text: SD3Text
    decoder: LatentDecoder
    scheduler: FlowMatchEulerDiscreteScheduler
    policy: DtypePolicy = FLOAT32
    device: torch.device = attrs.field(default=CPU, converter=torch.device)
    gradient_checkpointing: bool = False

    def __attrs_post_init__(self) -> None:
        check_scheduler(self.scheduler)
        channels = self.transformer.config["in_channels"]
        if self.decoder.vae.config["latent_channels"] != channels:
            raise ValueError(
                f"`decoder` must decode {channels} channels like the transformer, got "
                f"{self.decoder.vae.config['latent_channels']}; this VAE belongs to another model"
            )
        self.policy.place(self.transformer, self.device)
        self.transformer.eval()
        if self.gradient_checkpointing:
            self.transformer.enable_gradient_checkpointing()
        else:
            self.transformer.disable_gradient_checkpointing()

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
        gradient_checkpointing: bool = False,
    ) -> SD3Backbone:
        """Load a hub id or a local folder in diffusers layout.

        Args:
            source: ``owner/name`` or a folder with a model_index.json.
            policy: See `from_pipeline`, here and below.
            frozen_policy: Dtypes of VAE and text encoders.
            device: Where everything runs.
            text_length: T5 positions, the pipeline's max_sequence_length.
            use_t5: True needs a T5, False leaves it out, None takes it where the source has one.
            decode_batch: Samples decoded at a time.
            clamp: How decoded pixels are brought into [0, 1].
            gradient_checkpointing: Recompute each block in the backward pass.

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
            source, dtype=policy.weights, frozen_dtype=frozen_dtype, use_t5=use_t5
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
        for name, tower in backbone.text_encoders.towers.items():
            tower.held.reload_with(partial(load_model, source, name, frozen_dtype))
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
        gradient_checkpointing: bool = False,
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
            gradient_checkpointing: Recompute each block in the backward pass.

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

    @property
    def module(self) -> nn.Module:
        """The transformer, which is what is trained."""
        module: nn.Module = self.transformer
        return module

    @property
    def text_encoders(self) -> TextEncoders:
        """The text encoders, for whoever keeps what they give and releases them."""
        text = self.text
        towers = {"text_encoder": text.clip, "text_encoder_2": text.clip_2}
        read = {"text_encoder": text.clip.tokenizer.model_max_length}
        if text.t5 is not None:
            towers["text_encoder_3"] = text.t5
            read = {"text_encoder_3": text.text_length}
        facts = {"text_length": text.text_length, "width": text.width, "dtypes": str(text.policy)}
        return TextEncoders(family="sd3", towers=towers, read=read, facts=facts, device=text.device)

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """Encode B prompts to ``tokens`` (B, L, D) and ``pooled`` (B, P), without gradient."""
        return self.text(prompts)

    def noise(self, count: int, *, height: int, width: int, generator: torch.Generator) -> Tensor:
        """Draw starting latents (count, C, h, w); a CPU generator gives the same on any device.

        Raises:
            ValueError: `count` is less than 1, or a size the model cannot draw.
        """
        if count < 1:
            raise ValueError(f"`count` must be at least 1, got {count}")
        rows, columns = self._latent_size(height, width)
        shape = (count, self.transformer.config["in_channels"], rows, columns)
        drawn = torch.randn(shape, generator=generator, device=generator.device)
        return drawn.to(device=self.device, dtype=self.policy.state)

    def sigmas(self, steps: int, *, height: int, width: int) -> Tensor:
        """The scheduler's grid (N+1,), float32 on the CPU; `scheduler_sigmas` has the details."""
        rows, columns = self._latent_size(height, width)
        patch = self.transformer.config["patch_size"]
        tokens = (rows // patch) * (columns // patch)
        return scheduler_sigmas(self.scheduler, steps, image_tokens=tokens)

    def velocity(self, conditioning: Conditioning) -> VelocityField:
        """The velocity field under `conditioning`: (B, C, h, w) and sigma to (B, C, h, w)."""
        return SD3Velocity(
            transformer=self.transformer,
            conditioning=conditioning,
            policy=self.policy,
            train_timesteps=self.scheduler.config["num_train_timesteps"],
        )

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, C, h, w) to images (B, 3, H, W) in [0, 1], differentiable."""
        return self.decoder(latents)

    def trainable(self) -> Mapping[str, nn.Parameter]:
        """The transformer's parameters that require a gradient, by name."""
        return {
            name: parameter
            for name, parameter in self.transformer.named_parameters()
            if parameter.requires_grad
        }

    def save(self, folder: Path) -> None:
        """Write a folder that ``StableDiffusion3Pipeline.from_pretrained`` loads.

        Without a T5, diffusers wants ``text_encoder_3=None, tokenizer_3=None`` in that call. The
        paths that the components were loaded from are not written.

        Args:
            folder: Created where it is missing. Writing is not atomic: write to a new folder and
                rename it.
        """
        t5 = self.text.t5
        pipeline = require("diffusers").StableDiffusion3Pipeline(
            transformer=self.transformer,
            vae=self.decoder.vae,
            scheduler=self.scheduler,
            text_encoder=self.text.clip.held.for_saving(),
            tokenizer=self.text.clip.tokenizer,
            text_encoder_2=self.text.clip_2.held.for_saving(),
            tokenizer_2=self.text.clip_2.tokenizer,
            text_encoder_3=t5 and t5.held.for_saving(),
            tokenizer_3=t5 and t5.tokenizer,
        )
        save_pipeline(pipeline, folder)

    def _latent_size(self, height: int, width: int) -> tuple[int, int]:
        config, scale = self.transformer.config, self.decoder.scale_factor
        multiple = scale * config["patch_size"]
        largest = (config["pos_embed_max_size"] or 0) * multiple or None
        check_size(height=height, width=width, multiple=multiple, largest=largest)
        return height // scale, width // scale
