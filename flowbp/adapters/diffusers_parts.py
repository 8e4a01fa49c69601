"""The components of a diffusers pipeline: how they are kept, saved and loaded again."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import attrs
import torch
from torch import nn

from flowbp.adapters.backbone import Conditioning
from flowbp.adapters.decode import LatentDecoder
from flowbp.adapters.layout import Layout
from flowbp.adapters.loadable import load_transformer
from flowbp.adapters.loading import load_model, pipeline_class
from flowbp.adapters.lora_export import adapter_of, save_lora
from flowbp.adapters.plain_loading import loading_lines
from flowbp.adapters.policy import CPU, FLOAT32, DtypePolicy
from flowbp.adapters.saving import save_with_encoders
from flowbp.adapters.text_encoders import TextEncoders

if TYPE_CHECKING:
    from diffusers import FlowMatchEulerDiscreteScheduler


class TextEncoding(Protocol):
    """Encodes prompts, frozen."""

    @property
    def text_length(self) -> int:
        """Tokens that are read, the pipeline's ``max_sequence_length``."""
        ...

    @property
    def encoders(self) -> TextEncoders:
        """The encoders by their names in the pipeline, ``text_encoder`` and so on."""
        ...

    def __call__(self, prompts: Sequence[str]) -> Conditioning:
        """Conditioning of B prompts, without gradient."""
        ...


@attrs.frozen(kw_only=True, eq=False)
class DiffusersParts(ABC):
    """The components of a diffusers pipeline, and how they get to disk and back.

    Args:
        transformer: The network that is trained.
        text: The text encoders.
        decoder: The VAE.
        scheduler: Where the sigmas come from.
        policy: Dtypes of the transformer.
        device: Where it runs.

    Example:
        See `DiffusersBackbone`, which adds how they sample.
    """

    layout: ClassVar[Layout]
    """What a pipeline folder of the family holds."""

    transformer: Any
    text: TextEncoding
    decoder: LatentDecoder
    scheduler: FlowMatchEulerDiscreteScheduler
    policy: DtypePolicy = FLOAT32
    device: torch.device = attrs.field(default=CPU, converter=torch.device)

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

    @abstractmethod
    def pipeline_parts(self) -> Mapping[str, Any]:
        """The pipeline's arguments that are no component the backbone has."""
