"""What the families over diffusers' own components share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor, nn

from flowbp.adapters.attention import attend_as_set
from flowbp.adapters.backbone import Conditioning
from flowbp.adapters.capabilities import Reference
from flowbp.adapters.compilation import compile_like
from flowbp.adapters.decoder import check_channels, pixels_per_latent
from flowbp.adapters.diffusers_components import DiffusersComponents, frozen_copy
from flowbp.adapters.latents import PATCH, PictureSizes
from flowbp.adapters.loading_snippet import sampling_lines
from flowbp.adapters.lora_layers import adapter_of, adapters_disabled, only_adapters_train
from flowbp.adapters.quantization import quantize
from flowbp.adapters.sigmas import (
    Shift,
    check_scheduler,
    even_levels,
    linear_shift,
    scheduler_sigmas,
)
from flowbp.core import Rescale, VelocityField

ReadConfig = Callable[[str], Mapping[str, Any]]
"""Gives the configuration of ``transformer``, ``scheduler`` or ``model_index``."""

JOINT_ATTENTION = (
    "to_q",
    "to_k",
    "to_v",
    "to_out.0",
    "add_q_proj",
    "add_k_proj",
    "add_v_proj",
    "to_add_out",
)
"""The projections of every attention, for images and, where the block has them, for text."""


@attrs.frozen(kw_only=True, eq=False)
class DiffusersBackbone(DiffusersComponents, ABC):
    """A diffusers transformer with its text encoders, VAE and scheduler, as `Backbone`.

    Construction moves the transformer to `device`, casts it to `policy.weights` and sets it to
    evaluation mode; which of its parameters require a gradient stays as it was. A family names its
    pipeline and its text encoders, says how its transformer is called, and what its guidance is.
    """

    dynamic_shift: ClassVar[Shift] = staticmethod(linear_shift)
    """The mu of the family's pipeline, for schedulers with dynamic shifting."""
    even_grid: ClassVar[bool] = True
    """Whether the pipeline gives the scheduler even levels, or lets it take its own."""
    guidance_rescale: ClassVar[Rescale | None] = None
    """What the pipeline does with the guided velocity before it takes a step."""
    folded: ClassVar[int] = PATCH
    """Latents of the VAE along one side of what is one position for the transformer."""
    sampled: ClassVar[int] = 1
    """Latents of the VAE along one side of what is one position for the sampler."""

    def __attrs_post_init__(self) -> None:
        check_scheduler(self.scheduler)
        self.check_components()
        adapter_of(self.transformer)
        if self.quantization is not None:
            # Before the rest follows, so that the device never holds all matrices as they were.
            quantize(self.transformer, self.quantization, self.device)
        self.policy.place(self.transformer, self.device)
        self.transformer.eval()
        attend_as_set(self.transformer, self.device, self.policy.compute)
        self.checkpoint_gradients(self.gradient_checkpointing is True)

    def checkpoint_gradients(self, on: bool, /) -> None:
        """Recompute each block in the backward pass from now on, or do not."""
        if on:
            self.transformer.enable_gradient_checkpointing()
        else:
            self.transformer.disable_gradient_checkpointing()

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """Encode B prompts, without gradient."""
        return self.text(prompts)

    def noise(self, count: int, *, height: int, width: int, generator: torch.Generator) -> Tensor:
        """Draw starting latents (count, C, h, w); a CPU generator gives the same on any device."""
        if count < 1:
            raise ValueError(f"`count` must be at least 1, got {count}")
        shape = (count, *self.latent_shape(height, width))
        drawn = torch.randn(shape, generator=generator, device=generator.device)
        return drawn.to(device=self.device, dtype=self.policy.state)

    def velocity(self, conditioning: Conditioning) -> VelocityField:
        """The velocity field under `conditioning`: (B, C, h, w) and sigma to (B, C, h, w).

        A call refuses latents of another dtype than `policy.state`, or of another number of
        samples than the conditioning.
        """
        train_timesteps = self.scheduler.config["num_train_timesteps"]

        def velocity(latents: Tensor, sigma: Tensor, /) -> Tensor:
            _check_latents(latents, conditioning, self.policy.state)
            timestep = _batch_timesteps(latents, sigma, train_timesteps)
            weights = self.policy.weights
            tensors = {
                name: each.to(weights) if each.is_floating_point() else each
                for name, each in conditioning.tensors.items()
            }
            with self.policy.autocast(latents.device):
                found = self.predicted(latents.to(weights), timestep, tensors)
            return found.to(self.policy.state)

        return velocity

    @abstractmethod
    def predicted(self, latents: Tensor, timestep: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
        """The transformer's velocity at `latents` (B, C, h, w) and `timestep` (B,).

        Both, and the floats among the conditioning's `tensors`, are in the weights' dtype.
        """

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

    def reference(self) -> Reference:
        """The velocity that an anchor holds the model near, without gradient; ask before training.

        With a peft adapter, and nothing else trained, it is that of the base without any adapter,
        at no cost of memory. Otherwise it is that of a frozen copy in `policy.compute`, which
        differs by rounding where the weights are kept in more.
        """
        if only_adapters_train(self.transformer):
            return _without_gradient(self._base_velocity)
        policy = self.policy.frozen
        frozen = frozen_copy(self.transformer, policy.weights)
        compile_like(frozen, self.transformer)
        return _without_gradient(attrs.evolve(self, transformer=frozen, policy=policy).velocity)

    def _base_velocity(self, conditioning: Conditioning) -> VelocityField:
        field = self.velocity(conditioning)

        def velocity(latents: Tensor, sigma: Tensor, /) -> Tensor:
            with adapters_disabled(self.transformer):
                return field(latents, sigma)

        return velocity

    def check_components(self) -> None:
        """Refuse components that do not fit together."""
        channels = self.transformer.config["in_channels"]
        check_channels(self.decoder, channels, folded=self.folded**2)

    @classmethod
    def patch(cls, transformer: Mapping[str, Any]) -> int:
        """Latents of the VAE along one side of a patch, by the transformer's configuration."""
        return PATCH

    @classmethod
    def picture_sizes(cls, transformer: Mapping[str, Any], vae: Mapping[str, Any]) -> PictureSizes:
        """The pictures that a model of these configurations can draw, found without its weights."""
        return PictureSizes(pixels_per_latent(vae) * cls.patch(transformer))

    def check_size(self, height: int, width: int) -> None:
        """Refuse a picture of `height` x `width` pixels that the model cannot draw."""
        sizes = self.picture_sizes(self.transformer.config, self.decoder.vae.config)
        sizes.check(height=height, width=width)

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """The (C, h, w) of a picture of `height` x `width` pixels that the model can draw."""
        self.check_size(height, width)
        channels = self.transformer.config["in_channels"] * self.sampled**2 // self.folded**2
        side = self.decoder.scale_factor * self.sampled
        return channels, height // side, width // side

    def image_tokens(self, height: int, width: int) -> int:
        """The patches of a picture of `height` x `width` pixels, as the transformer counts them."""
        self.check_size(height, width)
        side = self.decoder.scale_factor * self.patch(self.transformer.config)
        return (height // side) * (width // side)

    def sigmas(self, steps: int, *, height: int, width: int) -> Tensor:
        """The pipeline's own grid (N+1,), float32 on the CPU."""
        levels = even_levels(steps) if self.even_grid else None
        return self._scheduled(steps, levels, height, width)

    def shifted(self, levels: Sequence[float], *, height: int, width: int) -> Tensor:
        """The grid (N+1,) that N falling levels become in the pipeline given ``sigmas=``."""
        return self._scheduled(len(levels), levels, height, width)

    def _scheduled(
        self, steps: int, levels: Sequence[float] | None, height: int, width: int
    ) -> Tensor:
        return scheduler_sigmas(
            self.scheduler,
            steps,
            image_tokens=self.image_tokens(height, width),
            shift=self.dynamic_shift,
            levels=levels,
        )

    @property
    def facts(self) -> Mapping[str, Any]:
        """What a picture depends on that the model or a default decides: to be written down."""
        config = self.scheduler.config
        dynamic = config["use_dynamic_shifting"]
        return {
            "weights": str(self.policy.weights).removeprefix("torch."),
            **({"quantization": self.quantization} if self.quantization else {}),
            "compute": str(self.policy.compute).removeprefix("torch."),
            "frozen_weights": str(self.decoder.policy.weights).removeprefix("torch."),
            "text_encoders": list(self.text_encoders.towers),
            "text_length": self.text.text_length,
            "scheduler_shift": "dynamic" if dynamic else config["shift"],
        }

    @classmethod
    def guidance_fault(
        cls, guidance: float, read: ReadConfig, options: Mapping[str, Any]
    ) -> str | None:
        """What is wrong with this scale of guidance for a model built with these options."""
        return None

    def guidance_problem(self, guidance: float) -> str | None:
        """What is wrong with sampling at this scale, and the cure; None if nothing is."""
        parts: dict[str, Mapping[str, Any]] = {
            "transformer": self.transformer.config,
            "scheduler": self.scheduler.config,
            "model_index": self.pipeline_parts(),
        }
        return self.guidance_fault(guidance, parts.__getitem__, self.facts)

    def plain_guidance(self, guidance: float, negative_prompt: str) -> Mapping[str, Any] | None:
        """The pipeline's arguments for a scale of guidance, or None where it has none for it."""
        if guidance < 1:
            return None
        negative = {"negative_prompt": negative_prompt} if negative_prompt else {}
        return {"guidance_scale": guidance, **negative}

    def sampling(
        self, sigmas: Tensor, *, height: int, width: int, guidance: float, negative_prompt: str
    ) -> str:
        """The lines of Python that sample on `sigmas` (N+1,) in plain diffusers."""
        options = self.plain_guidance(guidance, negative_prompt)
        if options is None:
            return (
                f"# {self.layout.pipeline} does not sample with this guidance and negative prompt"
            )
        length = self.text.text_length
        options = {**options, "max_sequence_length": length}
        note = "" if length else "# No T5 is read, and nothing takes its place: its length is 0.\n"
        return note + sampling_lines(self, sigmas, options, height=height, width=width)


def _check_latents(latents: Tensor, conditioning: Conditioning, state: torch.dtype) -> None:
    """Refuse latents that were rounded, or that are not one for each conditioning."""
    if latents.dtype != state:
        raise ValueError(
            f"`latents` must be {state}, got {latents.dtype}; the policy casts "
            "inside the network, the state of the sampler is never rounded"
        )
    if len(latents) != len(conditioning):
        raise ValueError(
            f"`latents` must have {len(conditioning)} samples like the conditioning, got "
            f"{len(latents)}; slice or repeat the conditioning alike"
        )


def _batch_timesteps(latents: Tensor, sigma: Tensor, train_timesteps: int) -> Tensor:
    """One timestep ``sigma * train_timesteps`` for each sample (B,), on the latents' device."""
    # In float32 whatever the policy: in bfloat16 the steps between 512 and 1024 are 4 apart.
    timestep = sigma.to(torch.float32) * train_timesteps
    if sigma.device.type == "cpu" and latents.device.type != "cpu":
        # Copying a number out of the CPU's memory would wait for the device at every call.
        return torch.full((len(latents),), float(timestep), device=latents.device)
    return timestep.to(latents.device).expand(len(latents))


def _without_gradient(reference: Reference) -> Reference:
    """The same fields, evaluated under no_grad."""

    def fields(conditioning: Conditioning) -> VelocityField:
        field = reference(conditioning)

        def velocity(latents: Tensor, sigma: Tensor, /) -> Tensor:
            with torch.no_grad():
                return field(latents, sigma)

        return velocity

    return fields
