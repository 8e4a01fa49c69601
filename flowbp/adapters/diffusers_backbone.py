"""What the families over diffusers' own components share."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import attrs
import torch
from torch import Tensor, nn

from flowbp.adapters.backbone import Conditioning
from flowbp.adapters.compiling import compile_blocks, is_compiled
from flowbp.adapters.decode import LatentDecoder
from flowbp.adapters.loadable import load_transformer
from flowbp.adapters.loading import Layout, load_model, pipeline_class
from flowbp.adapters.lora_export import adapter_of, save_lora
from flowbp.adapters.plain_loading import loading_lines
from flowbp.adapters.policy import CPU, FLOAT32, DtypePolicy
from flowbp.adapters.reference import (
    Reference,
    adapters_disabled,
    frozen_copy,
    only_adapters_train,
    without_gradient,
)
from flowbp.adapters.saving import save_with_encoders
from flowbp.adapters.sigmas import check_scheduler
from flowbp.adapters.text_encoders import TextEncoders
from flowbp.core import VelocityField

if TYPE_CHECKING:
    from diffusers import FlowMatchEulerDiscreteScheduler

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


class TextEncoding(Protocol):
    """Encodes prompts, frozen."""

    @property
    def encoders(self) -> TextEncoders:
        """The encoders by their names in the pipeline, ``text_encoder`` and so on."""
        ...

    def __call__(self, prompts: Sequence[str]) -> Conditioning:
        """Conditioning of B prompts, without gradient."""
        ...


@attrs.frozen(kw_only=True, eq=False)
class DiffusersBackbone(ABC):
    """A diffusers transformer with its text encoders, VAE and scheduler, as `Backbone`.

    Construction moves the transformer to `device`, casts it to `policy.weights` and sets it to
    evaluation mode; which of its parameters require a gradient stays as it was.

    A family adds its latents' shape, its sigmas and its velocity, and names its pipeline.

    Args:
        transformer: The network that is trained.
        text: The text encoders.
        decoder: The VAE.
        scheduler: Where the sigmas come from.
        policy: Dtypes of the transformer.
        device: Where it runs.
        gradient_checkpointing: Recompute each block in the backward pass to save memory.

    Raises:
        TypeError: A scheduler of another kind.
        ValueError: A scheduler that is no deterministic Euler descent, or a transformer with
            several adapters or with one beside which other parameters are trained.

    Example:
        See `SD3Backbone`, `Flux1Backbone` and `Flux2Backbone`.
    """

    layout: ClassVar[Layout]
    """What a pipeline folder of the family holds."""
    lora_targets: ClassVar[tuple[str, ...]]
    """The linear layers that an adapter is attached to by default, by the ends of names."""

    transformer: Any
    text: TextEncoding
    decoder: LatentDecoder
    scheduler: FlowMatchEulerDiscreteScheduler
    policy: DtypePolicy = FLOAT32
    device: torch.device = attrs.field(default=CPU, converter=torch.device)
    gradient_checkpointing: bool = False

    def __attrs_post_init__(self) -> None:
        check_scheduler(self.scheduler)
        self.check_components()
        adapter_of(self.transformer)
        self.policy.place(self.transformer, self.device)
        self.transformer.eval()
        if self.gradient_checkpointing:
            self.transformer.enable_gradient_checkpointing()
        else:
            self.transformer.disable_gradient_checkpointing()

    @property
    def module(self) -> nn.Module:
        """The transformer, which is what is trained."""
        module: nn.Module = self.transformer
        return module

    @property
    def lora_pipeline(self) -> Any:
        """The class of the diffusers pipeline that reads and writes adapters."""
        return pipeline_class(self.layout.pipeline)

    @property
    def text_encoders(self) -> TextEncoders:
        """The text encoders, for whoever keeps what they give and releases them."""
        return self.text.encoders

    def reload_encoders_from(
        self, source: str | os.PathLike[str], layout: Layout, dtype: torch.dtype
    ) -> None:
        """Say where text encoders that were released come back from.

        Args:
            source: A hub id or a folder that holds them as they are now.
            layout: What it holds.
            dtype: Of their weights.
        """
        for name, tower in self.text_encoders.towers.items():
            load = partial(load_model, source, layout, name, dtype)
            tower.held.reload_with(load, str(source))

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """Encode B prompts, without gradient."""
        return self.text(prompts)

    def noise(self, count: int, *, height: int, width: int, generator: torch.Generator) -> Tensor:
        """Draw starting latents (count, C, h, w); a CPU generator gives the same on any device.

        Raises:
            ValueError: `count` is less than 1, or a size the model cannot draw.
        """
        if count < 1:
            raise ValueError(f"`count` must be at least 1, got {count}")
        shape = (count, *self.latent_shape(height, width))
        drawn = torch.randn(shape, generator=generator, device=generator.device)
        return drawn.to(device=self.device, dtype=self.policy.state)

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
        which is disabled while it is evaluated, at no cost of memory. What an adapter had learnt
        before it was attached counts as training: the distance is not zero at the start then.
        Otherwise it is that of a frozen copy of the transformer before training, in
        `policy.compute`; where the weights are kept in more than that, the two differ from the
        start by rounding, in the mean square by about 1e-4 of the velocity's own.
        """
        if only_adapters_train(self.transformer):
            return without_gradient(self._base_velocity)
        policy = self.policy.frozen
        frozen = frozen_copy(self.transformer, policy.weights)
        if is_compiled(self.transformer):
            compile_blocks(frozen)
        return without_gradient(attrs.evolve(self, transformer=frozen, policy=policy).velocity)

    def save(self, folder: Path) -> None:
        """Write a folder that the family's diffusers pipeline loads with ``from_pretrained``.

        Of a model with an adapter only that is written, for the pipeline of the model it was
        attached to, which loads it with ``load_lora_weights``.

        A component that the model does not have is None there, and so is a text encoder that was
        released and cannot be read again. The paths that the components were loaded from are not
        written.

        Args:
            folder: Created where it is missing. Writing is not atomic: write to a new folder and
                rename it.

        Warns:
            UserWarning: A text encoder is left out, why, and how to load the folder then.
        """
        adapter = adapter_of(self.transformer)
        if adapter is not None:
            save_lora(self.lora_pipeline, self.transformer, adapter, folder)
            return
        parts = {
            "transformer": self.transformer,
            "vae": self.decoder.vae,
            "scheduler": self.scheduler,
            **self.pipeline_parts(),
        }
        kind = pipeline_class(self.layout.pipeline)
        save_with_encoders(kind, parts, self.text_encoders.towers, folder)

    def loading(self, folder: Path) -> str:
        """The lines of Python that load what `save` wrote into plain diffusers.

        Args:
            folder: That it was written to.

        Returns:
            They assign ``pipeline``, which computes in `policy.compute`.
        """
        towers = self.text_encoders.towers
        absent = [
            name
            for name, part in self.pipeline_parts().items()
            if part is None and name not in self.layout.unused
        ]
        return loading_lines(
            pipeline_class(self.layout.pipeline),
            folder,
            dtype=self.policy.compute,
            absent=absent,
            encoders=tuple(towers),
            base=next((tower.held.origin for tower in towers.values()), ""),
        )

    def load(self, folder: Path) -> None:
        """Take the transformer of a folder that `save` wrote whole, in place of the present one.

        Args:
            folder: in diffusers layout; for one with an adapter alone, see `Lora`.

        Raises:
            FileNotFoundError: the transformer is missing.
            ValueError: the folder is of another model, or damaged.
        """
        load_transformer(folder, self.layout, self.transformer, self.policy.weights)

    def _base_velocity(self, conditioning: Conditioning) -> VelocityField:
        field = self.velocity(conditioning)

        def velocity(latents: Tensor, sigma: Tensor, /) -> Tensor:
            with adapters_disabled(self.transformer):
                return field(latents, sigma)

        return velocity

    @abstractmethod
    def check_components(self) -> None:
        """Refuse components that do not fit together.

        Raises:
            ValueError: Two of them are of different models.
        """

    @abstractmethod
    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """The (C, h, w) of a picture of `height` x `width` pixels.

        Raises:
            ValueError: A size the model cannot draw, with the nearest that it can.
        """

    @abstractmethod
    def pipeline_parts(self) -> Mapping[str, Any]:
        """The pipeline's arguments that are no component the backbone has."""

    @abstractmethod
    def sigmas(self, steps: int, *, height: int, width: int) -> Tensor:
        """The grid (N+1,) that the model samples on, 1 … 0, float32 on the CPU."""

    @abstractmethod
    def velocity(self, conditioning: Conditioning) -> VelocityField:
        """The velocity field under `conditioning`: (B, C, h, w) and sigma to (B, C, h, w)."""
