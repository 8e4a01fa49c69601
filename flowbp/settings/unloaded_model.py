"""What a configured model says of itself before its weights are loaded."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import attrs
import torch

from flowbp.adapters import (
    DiffusersBackbone,
    DtypePolicy,
    PictureSizes,
    PipelineSource,
    SD3Backbone,
    WithGuidanceAdvice,
    read_config,
    read_stated,
    rescale_of,
)
from flowbp.adapters.attention_kernels import HALF, KERNELS
from flowbp.adapters.dtype_policy import FLOAT32
from flowbp.adapters.quantization import Quantization
from flowbp.config import Component
from flowbp.rewards.needs import here
from flowbp.settings.component_needs import Found
from flowbp.settings.device import chosen_device
from flowbp.shapes.embedded import base_folder, embedded_backbone


@attrs.frozen
class NamedModel:
    """A model of a family, not loaded."""

    family: type[DiffusersBackbone]
    source: PipelineSource
    options: Mapping[str, Any] = attrs.field(factory=dict)

    @property
    def is_folder(self) -> bool:
        """Whether its source is a folder that is there."""
        return Path(self.source.source).expanduser().is_dir()

    @property
    def quantization(self) -> Quantization | None:
        """In how few bits its blocks are kept; None of one that is not quantised."""
        return self.options.get("quantization")

    @property
    def compute(self) -> torch.dtype:
        """The dtype of its matrix products."""
        policy: DtypePolicy = self.options.get("policy", FLOAT32)
        return policy.compute

    @property
    def locations(self) -> Mapping[str, str]:
        """The files that it reads besides its source, by key, with their sizes."""
        file = self.source.transformer
        return {} if file is None else {"transformer": here(Path(file).expanduser())}

    def config(self, name: str) -> Mapping[str, Any]:
        """The configuration of a component, see `flowbp.adapters.read_config`."""
        return read_config(self.source, self.family.layout, name)

    def guidance_problem(self, guidance: float) -> str | None:
        """What it would say of a scale of guidance; None where its files do not say."""
        try:
            return self.family.guidance_fault(guidance, self._stated, self.options)
        except (OSError, ValueError, ImportError):
            # What is missing or of another model is refused elsewhere.
            return None

    def _stated(self, name: str) -> Mapping[str, Any]:
        if name == "transformer":
            return self.config(name)
        files = {"scheduler": "scheduler/scheduler_config.json"}
        return read_stated(self.source, files.get(name, f"{name}.json"))

    @property
    def picture_sizes(self) -> PictureSizes:
        """The pictures that it can draw."""
        return self.family.picture_sizes(self.config("transformer"), self.config("vae"))


def named_model(component: Component[Any]) -> NamedModel | None:
    """The model that a backbone's component would load, of the library's families or another."""
    if component.target == embedded_backbone:
        return NamedModel(SD3Backbone, PipelineSource(base_folder()))
    family = getattr(component.target, "__self__", None)
    if not (isinstance(family, type) and issubclass(family, DiffusersBackbone)):
        return None
    if component.target != family.from_pretrained or not component.takes("device"):
        return None
    given = {
        name: component.arguments[name]
        for name in attrs.fields_dict(PipelineSource)
        if name in component.arguments
    }
    return NamedModel(family, PipelineSource(**given), component.arguments)


def rescales_guidance(backbone: Component[Any]) -> bool:
    """Whether a model's sampler changes the guided velocity, as far as is known."""
    named = named_model(backbone)
    return named is not None and rescale_of(named.family) is not None


class PictureSize(Protocol):
    """Has the sides of a picture, in pixels."""

    @property
    def height(self) -> int:
        """From top to bottom."""
        ...

    @property
    def width(self) -> int:
        """From left to right."""
        ...


def picture_size_problems(backbone: Component[Any], size: PictureSize) -> Found:
    """What is wrong with the size of pictures in the section `sampling`."""
    named = named_model(backbone)
    if named is None:
        return
    try:
        sizes = named.picture_sizes
    # A configuration of wrong types raises anything.
    except Exception as error:
        # A hub out of reach is asked for half a minute, so once is enough. What a folder lacks is
        # reported by what loads it, with all that is missing.
        if isinstance(error, OSError) and not named.is_folder:
            yield ("backbone",), str(error)
        return
    for side, wrong in (("height", sizes.fault(size.height)), ("width", sizes.fault(size.width))):
        if wrong:
            yield ("sampling", side), wrong


def kernel_problems(backbone: Component[Any], section: str, attention: str, device: str) -> Found:
    """What is wrong with `section.attention` for the dtype that a known model computes in."""
    named = named_model(backbone)
    if named is None or attention not in KERNELS or named.compute in HALF:
        return
    # That there is no such kernel on the device is reported already.
    if chosen_device(device).type == "cuda":
        dtype = str(named.compute).removeprefix("torch.")
        cure = "write auto"
        if backbone.takes("policy"):
            cure += ", or backbone.policy={weights: float32, compute: bfloat16}"
        yield (
            (section, "attention"),
            f"is {attention!r}, a kernel of half precision, and the model computes in {dtype}; "
            f"{cure}",
        )


META = torch.device("meta")
"""Where a network has shapes and no weights."""


def warn_about_guidance(model: object, scales: Mapping[str, float]) -> None:
    """Warn of scales of guidance that a model is not made for."""
    if not isinstance(model, WithGuidanceAdvice):
        return
    for key, scale in scales.items():
        problem = model.guidance_problem(scale)
        if problem is not None:
            warnings.warn(f"{key} {problem}", stacklevel=2)
