"""What of a model is trained: all of it, or a low-rank adapter."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import attrs
import torch
from torch import Tensor, nn

from flowbp.adapters.backbone import Backbone
from flowbp.adapters.capabilities import Adaptable
from flowbp.adapters.lora_files import find_lora
from flowbp.adapters.lora_layers import (
    adapter_layers,
    configuration_of,
    fill,
    initialise,
    replace_modules,
)
from flowbp.adapters.lora_reading import read_lora
from flowbp.adapters.quantization import quantization_of
from flowbp.extras import require
from flowbp.limits import RANK
from flowbp.validators import integer, real


class Tuning(Protocol):
    """Chooses what of a backbone is trained."""

    def __call__(self, backbone: Backbone, /, *, generator: torch.Generator) -> Backbone:
        """The backbone to train, whose `trainable` names what changes.

        Args:
            backbone: As it was loaded; its module may be changed in place.
            generator: For whatever is drawn; on the CPU, so that devices agree.

        Returns:
            A backbone, the same or another.
        """
        ...


@attrs.frozen
class Full:
    """Train what the backbone itself calls trainable, which for the library's families is all."""

    def __call__(self, backbone: Backbone, /, *, generator: torch.Generator) -> Backbone:
        """The backbone as it is; a ValueError if its weights are quantised, and so frozen."""
        form = quantization_of(backbone.module)
        if form is not None:
            raise ValueError(f"`tuning` {why_not_full(form)}")
        return backbone


def why_not_full(form: str) -> str:
    """Why all weights of a quantised model cannot be trained, and the cure."""
    return (
        f"full cannot train weights that are frozen in {form}; write tuning={{name: lora}}, or "
        "backbone.quantization=null to train them all"
    )


ADAPTER = "default"
"""The name under which peft holds the adapter."""


def _texts(value: Iterable[str] | None) -> tuple[str, ...] | None:
    if isinstance(value, str):
        raise TypeError(f"`targets` must be a list of names, got the single text {value!r}")
    return None if value is None else tuple(value)


@attrs.frozen(kw_only=True)
class Lora:
    """Train a low-rank adapter and nothing else: ``W x`` becomes ``W x + (alpha / rank) B A x``.

    W stays as it was, in the policy's dtype. A (rank, in) and B (out, rank) are float32 (float64
    under float64), and are computed with in the dtype of the activations. B starts at zero, so
    that an adapter changes nothing before it is trained.

    Args:
        start: a LoRA to go on from: a safetensors file, a folder with one, or a hub id, as peft
            writes it or in a layout that diffusers reads for the model, such as those of ComfyUI
            and kohya. Rank and targets are its own; its alpha is taken into B, so that it goes on
            with alpha equal to the rank.
        rank: of each A and B, from 1 to 4,096; 32 without a `start`.
        alpha: the strength, which is divided by the rank; above 0, and `rank` without a `start`.
        targets: ends of the names of linear layers, such as ``to_q`` or
            ``transformer_blocks.0.attn.to_q``; None is the model family's own choice.
        dropout: share of the adapter's inputs that are dropped in [0, 1), in the backward pass's
            evaluations only. Samples are always drawn without.

    Raises:
        ValueError: a number is out of range, there is no such `start`, something is given besides
            that it would override, or peft is not installed.
        TypeError: `targets` is a single text.

    Example:
        >>> from flowbp.shapes.embedded import embedded_backbone
        >>> backbone = embedded_backbone()
        >>> adapted = Lora(rank=4)(backbone, generator=torch.Generator().manual_seed(0))
        >>> sum(each.numel() for each in adapted.trainable().values())
        39936

    Reference: Hu et al., arXiv 2106.09685.
    """

    start: str | os.PathLike[str] | None = attrs.field(
        default=None, converter=attrs.converters.optional(os.fspath)
    )
    rank: int | None = attrs.field()
    alpha: float | None = attrs.field()
    targets: tuple[str, ...] | None = attrs.field(default=None, converter=_texts)
    dropout: float = attrs.field(default=0.0, validator=real(0, 1))

    @rank.default
    def _default_rank(self) -> int | None:
        return 32 if self.start is None else None

    @alpha.default
    def _default_alpha(self) -> float | None:
        return float(self.rank) if isinstance(self.rank, int) else None

    @rank.validator
    def _check_rank(self, attribute: attrs.Attribute[Any], value: int | None) -> None:
        if self.start is None:
            integer(1, RANK)(self, attribute, value)

    @alpha.validator
    def _check_alpha(self, attribute: attrs.Attribute[Any], value: float | None) -> None:
        if self.start is None:
            real(0, above=True)(self, attribute, value)

    @targets.validator
    def _check_targets(self, _: attrs.Attribute[Any], value: tuple[str, ...] | None) -> None:
        if value is not None and not (value and all(isinstance(v, str) and v for v in value)):
            raise ValueError(
                f"`targets` must be names of linear layers, got {value}; leave it out for the "
                "model family's own"
            )

    def __attrs_post_init__(self) -> None:
        """Refuse now what would fail, or be ignored, once the model is there."""
        if self.dropout == 1:
            raise ValueError("`dropout` must be below 1, got 1; nothing of the adapter would stay")
        try:
            require("peft", extra="lora")
        except ModuleNotFoundError as error:
            raise ValueError(f"`lora` cannot be used: {error}") from error
        if self.start is None:
            return
        # An alpha that is the rank may come from it alone.
        alpha = None if self.alpha == self.rank else self.alpha
        given = {"rank": self.rank, "alpha": alpha, "targets": self.targets}
        ignored = [name for name, value in given.items() if value is not None]
        if ignored:
            are, them = ("are", "them") if len(ignored) > 1 else ("is", "it")
            raise ValueError(
                f"`start` {self.start!r} brings its own rank, alpha and targets, but "
                f"{' and '.join(ignored)} {are} given too; leave {them} out"
            )
        find_lora(os.fspath(self.start))

    def __call__(self, backbone: Backbone, /, *, generator: torch.Generator) -> Backbone:
        """Attach the adapter to the backbone's module in place; A is drawn in order of names."""
        adaptable = _adaptable(backbone)
        module: Any = adaptable.module
        found = self._attach(adaptable)
        layers = adapter_layers(module)
        for layer in layers.values():
            replace_modules(layer, ADAPTER, dtype=adaptable.policy.state, dropout=self.dropout)
            if found is None:
                initialise(layer, ADAPTER, generator)
        if found is not None:
            fill(layers, ADAPTER, found)
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(".lora_" in name)
        # Injected modules start in training mode, whatever that of the rest.
        module.train(module.training)
        return backbone

    def _attach(self, backbone: Adaptable) -> dict[str, Tensor] | None:
        module: Any = backbone.module
        if self.start is None:
            names = _targeted(module, self.targets, backbone.lora_targets)
            config = require("peft").LoraConfig(
                r=self.rank, lora_alpha=self.alpha, target_modules=names
            )
            # peft would draw weights from torch's own generator, and they are replaced at once.
            with torch.device("meta"):
                module.add_adapter(config, ADAPTER)
            return None
        found = read_lora(os.fspath(self.start), backbone.lora_pipeline, module)
        try:
            _load(found, backbone.lora_pipeline.transformer_name, module)
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"`start` {self.start!r} does not fit the model: {error}") from error
        return found


def _adaptable(backbone: Backbone) -> Adaptable:
    module = getattr(backbone, "module", None)
    if not isinstance(backbone, Adaptable) or not hasattr(module, "add_adapter"):
        raise TypeError(
            f"`tuning` lora needs a backbone that is flowbp.adapters.Adaptable, over a model of "
            f"diffusers, got a {type(backbone).__name__} without; give it those attributes, or "
            "train all of it: tuning={name: full}"
        )
    if getattr(module, "peft_config", None):
        raise ValueError(
            "`backbone` must have no adapter yet, got one that has; start from its file with "
            "`start`, or merge it before: pipeline.fuse_lora(), then unload_lora_weights()"
        )
    return backbone


def _targeted(
    module: nn.Module, targets: Sequence[str] | None, default: Sequence[str]
) -> list[str]:
    linears = [name for name, each in module.named_modules() if isinstance(each, nn.Linear)]

    def ending(target: str) -> list[str]:
        return [name for name in linears if name == target or name.endswith(f".{target}")]

    for target in targets or ():
        if not ending(target):
            kinds = sorted({re.sub(r"^.*blocks\.\d+\.", "", name) for name in linears})
            raise ValueError(
                f"`targets` must name linear layers of the {type(module).__name__}, got "
                f"{target!r}, which none of its names ends in; there are {', '.join(kinds)}"
            )
    return sorted({name for target in targets or default for name in ending(target)})


def _load(found: Mapping[str, Tensor], prefix: str, module: Any) -> None:
    module.load_lora_adapter(
        {f"{prefix}.{name}": tensor for name, tensor in found.items()},
        prefix=prefix,
        adapter_name=ADAPTER,
        metadata={f"{prefix}.{name}": each for name, each in configuration_of(found).items()},
        low_cpu_mem_usage=True,
    )
