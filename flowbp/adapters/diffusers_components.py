"""The components of a diffusers pipeline: how they are loaded, kept, and saved again."""

from __future__ import annotations

import copy
import inspect
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, ParamSpec, Self, TypeVar

import attrs
import torch
from torch import Tensor, nn

from flowbp.adapters.capabilities import Checkpointing
from flowbp.adapters.decoder import Clamp, LatentDecoder, Unscale, hard_clamp, scaled
from flowbp.adapters.dtype_policy import CPU, FLOAT32, DtypePolicy
from flowbp.adapters.loading_snippet import loading_lines
from flowbp.adapters.lora_files import lora_copy, save_lora
from flowbp.adapters.lora_layers import adapter_of
from flowbp.adapters.pipeline_files import (
    INDEX,
    load_pipeline,
    load_transformer,
    pipeline_class,
    reload_model,
    save_transformer,
    save_with_encoders,
)
from flowbp.adapters.pipeline_layout import FAMILIES, TRANSFORMER, Layout
from flowbp.adapters.pipeline_source import PipelineSource
from flowbp.adapters.quantization import (
    FORMATS,
    Quantization,
    check_quantization,
    quantization_of,
)
from flowbp.adapters.text_encoders import PromptEncoder, TextEncoders

if TYPE_CHECKING:
    from diffusers import FlowMatchEulerDiscreteScheduler


_P = ParamSpec("_P")
_T = TypeVar("_T")

_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")


@attrs.frozen(kw_only=True, eq=False)
class DiffusersComponents:
    """The components of a diffusers pipeline; `DiffusersBackbone` adds how they sample."""

    layout: ClassVar[Layout]
    """What a pipeline folder of the family holds."""
    text_kind: ClassVar[type[PromptEncoder]]
    """Its text encoders."""
    unscale: ClassVar[Unscale] = staticmethod(scaled)
    """From the latents that it samples to those that its VAE decodes."""
    lora_targets: ClassVar[tuple[str, ...]]
    """The linear layers that an adapter is attached to by default, by the ends of names."""

    transformer: Any
    text: PromptEncoder
    decoder: LatentDecoder
    scheduler: FlowMatchEulerDiscreteScheduler
    policy: DtypePolicy = FLOAT32
    device: torch.device = attrs.field(default=CPU, converter=torch.device)
    gradient_checkpointing: Checkpointing = attrs.field(
        default="auto", validator=attrs.validators.in_((True, False, "auto"))
    )
    quantization: Quantization | None = attrs.field(
        default=None, validator=attrs.validators.in_((None, *FORMATS))
    )
    """In how few bits the matrices of the transformer's blocks are kept, frozen, under a LoRA."""
    origin: PipelineSource | None = None
    """From where it was loaded."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "layout" in vars(cls):
            FAMILIES[cls.layout.pipeline] = cls.text_kind.family

    # Annotated with the class and not with Self, which configurations cannot evaluate.
    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike[str],
        *,
        revision: str | None = None,
        variant: str | None = None,
        policy: DtypePolicy = FLOAT32,
        frozen_policy: DtypePolicy | None = None,
        quantization: Quantization | None = None,
        device: torch.device | str = "cpu",
        text_length: int = 512,
        decode_batch: int | None = None,
        clamp: Clamp = hard_clamp,
        gradient_checkpointing: Checkpointing = "auto",
    ) -> DiffusersComponents:
        """Load a hub id or a local folder in diffusers layout.

        Args:
            source: ``owner/name`` or a folder with a model_index.json.
            revision: Branch, tag or commit of the hub id; None is its main branch.
            variant: Of the weights, such as ``fp16``, in the components that have it; None takes
                the plain ones, or the only variant where there are none.
            policy: Dtypes of the transformer.
            frozen_policy: Dtypes of VAE and text encoders; None keeps them in `policy.compute`,
                which is also what `save` then writes.
            quantization: Keep the matrices of the transformer's blocks frozen in few bits, to train
                a LoRA on them in less memory: ``nf4`` in 4.5 bits a weight (extra `quantization`),
                ``int8`` in 8. All else stays in `policy`, and so do the products.
            device: Where everything runs; on ``meta`` no weights are read.
            text_length: Tokens that are read, the pipeline's max_sequence_length.
            decode_batch: Samples decoded at a time; None is the whole batch.
            clamp: How decoded pixels are brought into [0, 1].
            gradient_checkpointing: Recompute each block in the backward pass; under `auto` a
                run does where it has to.

        Returns:
            The backbone, all parameters of the transformer trainable.

        Raises:
            ModuleNotFoundError: diffusers or transformers is not installed.
            ImportError: The installed diffusers does not know the family.
            FileNotFoundError: No such source or revision, or a component's folder is missing.
            ValueError: Another pipeline class, a component or variant the source does not have, or
                an illegal value of another argument, or weights that are damaged or incomplete, or
                what a quantisation needs is not installed.
        """
        return cls._load(
            source,
            revision=revision,
            variant=variant,
            policy=policy,
            frozen_policy=frozen_policy,
            quantization=quantization,
            device=device,
            text_length=text_length,
            decode_batch=decode_batch,
            clamp=clamp,
            gradient_checkpointing=gradient_checkpointing,
        )

    @classmethod
    def _load(
        cls,
        source: str | os.PathLike[str],
        *,
        revision: str | None,
        variant: str | None,
        policy: DtypePolicy,
        frozen_policy: DtypePolicy | None,
        quantization: Quantization | None,
        device: torch.device | str,
        optional: bool | None = None,
        transformer: str | os.PathLike[str] | None = None,
        **options: Any,
    ) -> Self:
        check_quantization(quantization)
        frozen_dtype = (frozen_policy or policy.frozen).weights
        origin = PipelineSource(source, revision, variant, transformer)
        pipeline = load_pipeline(
            origin,
            cls.layout,
            dtype=policy.weights,
            frozen_dtype=frozen_dtype,
            optional=optional,
            weights=torch.device(device).type != "meta",
        )
        backbone = cls.from_pipeline(
            pipeline,
            policy=policy,
            frozen_policy=frozen_policy,
            quantization=quantization,
            device=device,
            origin=origin,
            **options,
        )
        for name, tower in backbone.text_encoders.towers.items():
            load = partial(reload_model, origin, cls.layout, name, frozen_dtype)
            tower.held.reload_with(load, str(source))
        return backbone

    @classmethod
    def from_pipeline(
        cls,
        pipeline: Any,
        *,
        policy: DtypePolicy = FLOAT32,
        frozen_policy: DtypePolicy | None = None,
        device: torch.device | str = "cpu",
        text_length: int | None = None,
        decode_batch: int | None = None,
        clamp: Clamp = hard_clamp,
        gradient_checkpointing: Checkpointing = "auto",
        **fields: Any,
    ) -> Self:
        """Take over the components of a pipeline; they are moved, cast and frozen in place.

        The arguments are those of `from_pretrained`, and `fields` those of the family's class; a
        `text_length` of None is the family's default.
        """
        parts: dict[str, Any] = pipeline.components
        frozen_policy = frozen_policy or policy.frozen
        length = {} if text_length is None else {"text_length": text_length}
        text = cls.text_kind.from_components(parts, policy=frozen_policy, device=device, **length)
        decoder = LatentDecoder(
            vae=parts["vae"],
            unscale=cls.unscale,
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
            **fields,
        )

    @property
    def module(self) -> nn.Module:
        """The transformer, which is what is trained."""
        module: nn.Module = self.transformer
        return module

    @property
    def text_encoders(self) -> TextEncoders:
        """The text encoders; a quantised transformer makes room on a GPU while they encode."""
        if self.quantization is None or self.device.type == "cpu":
            return self.text.encoders
        return attrs.evolve(self.text.encoders, alone=self._aside)

    @contextmanager
    def _aside(self) -> Iterator[None]:
        """Context in which the transformer is in the CPU's memory."""
        nn.Module.to(self.transformer, CPU)
        torch.cuda.empty_cache()
        try:
            yield
        finally:
            nn.Module.to(self.transformer, self.device)

    def pipeline_parts(self) -> Mapping[str, Any]:
        """The pipeline's arguments that are no component the backbone has."""
        return {}

    @property
    def lora_pipeline(self) -> Any:
        """The class of the diffusers pipeline that reads and writes adapters."""
        return pipeline_class(self.layout.pipeline)

    def save(self, folder: Path) -> None:
        """Write a folder that the family's diffusers pipeline loads with ``from_pretrained``.

        Of a model with an adapter only that is written, for ``load_lora_weights``. A text encoder
        that was offloaded and cannot be read again is None there, with a warning. Writing is not
        atomic: write to a new folder and rename it.
        """
        adapter = adapter_of(self.transformer)
        if adapter is None and quantization_of(self.transformer) is not None:
            raise ValueError(
                "`save` needs a LoRA on a quantised model, whose own weights are rounded to "
                f"{quantization_of(self.transformer)}, got none; attach one with Lora, or load the "
                "model with quantization=None"
            )
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

    @property
    def frozen_parts(self) -> Sequence[str]:
        """What `save` writes besides the transformer; nothing of a model with an adapter."""
        if adapter_of(self.transformer) is not None:
            return ()
        components = (*self.layout.models, *self.layout.others)
        return (INDEX, *(name for name in components if name != TRANSFORMER))

    def save_trained(self, folder: Path) -> None:
        """Write the transformer, or adapter, alone, as `save` does."""
        adapter = adapter_of(self.transformer)
        if adapter is None:
            save_transformer(self.transformer, folder)
        else:
            save_lora(self.lora_pipeline, self.transformer, adapter, folder)

    def copy_for_saving(self) -> Callable[[Path], object]:
        """Copy the transformer, or adapter, to the CPU; the function does what `save_trained` does.

        The function may be called in another thread, while the model goes on.
        """
        adapter = adapter_of(self.transformer)
        if adapter is None:
            return partial(save_transformer, frozen_copy(self.transformer, device=CPU, hooks=False))
        return lora_copy(self.lora_pipeline, self.transformer, adapter)

    def load(self, folder: Path) -> None:
        """Take the transformer of a folder that `save` wrote whole, in place of the present one."""
        load_transformer(folder, self.layout, self.transformer, self.policy.weights)

    def loading(self, folder: Path) -> str:
        """The lines of Python that load what `save` wrote into plain diffusers."""
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
            base=self.origin,
            transformer=self.layout.models[TRANSFORMER][1],
        )


def frozen_copy(
    network: nn.Module,
    dtype: torch.dtype | None = None,
    device: torch.device | None = None,
    *,
    hooks: bool = True,
) -> Any:
    """A copy of a network that shares no storage with it and requires no gradient.

    In its own dtypes and where it is, unless another dtype or device is given. One that never runs
    needs no `hooks`, which may hold what cannot be copied, such as an observer's open file.
    """

    def copied(tensor: Tensor) -> Tensor:
        # Straight into the dtype, so that there never is a second copy in the network's own.
        kept = dtype if tensor.is_floating_point() else None
        return tensor.detach().to(device or tensor.device, kept or tensor.dtype, copy=True)

    memo: dict[int, Any] = {id(buffer): copied(buffer) for buffer in network.buffers()}
    for parameter in network.parameters():
        memo[id(parameter)] = nn.Parameter(copied(parameter), requires_grad=False)
    for module in () if hooks else network.modules():
        memo |= {id(vars(module)[name]): OrderedDict() for name in _HOOKS}
    return copy.deepcopy(network, memo)


def with_shared_options(load: Callable[_P, _T]) -> Callable[_P, _T]:
    """Have a family's `from_pretrained` take what the base's takes, in place of its ``**shared``.

    Configurations read the signature, so it names every option; annotations of the base's are
    evaluated here, where its names are known.
    """
    base = inspect.signature(vars(DiffusersComponents)["from_pretrained"].__func__, eval_str=True)
    own = inspect.signature(load)
    named = {name: each for name, each in own.parameters.items() if each.kind != each.VAR_KEYWORD}
    signature = own.replace(parameters=[*{**base.parameters, **named}.values()])

    @wraps(load)
    def loading(*args: _P.args, **options: _P.kwargs) -> _T:
        given = signature.bind(*args, **options)
        given.apply_defaults()
        return load(*given.args, **given.kwargs)

    loading.__signature__ = signature  # type: ignore[attr-defined]
    return loading
