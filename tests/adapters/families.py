"""The model families of the library beside their diffusers pipelines: a new one is an entry."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import cache
from typing import Any

import attrs
from torch import Tensor

from flowbp.adapters import (
    Flux1Backbone,
    Flux2Backbone,
    QwenImageBackbone,
    SD3Backbone,
    ZImageBackbone,
)
from flowbp.adapters.latents import patchify, to_sequence
from flowbp.testing import PipelineRequest

from .tiny import tiny_pipeline
from .tiny_flux import flux1_pipeline, flux2_pipeline
from .tiny_qwen_image import qwen_image_pipeline
from .tiny_z_image import z_image_pipeline

EMBEDDED = 4.0


@attrs.frozen
class Family:
    """How one pipeline is called, and how its latents compare with the backbone's.

    `packed` brings the backbone's noise into the form that the pipeline takes as `latents`, and
    `published` the backbone's sample into the form that it returns for ``output_type="latent"``.
    """

    pipeline: Callable[[], Any]
    kind: Any
    text_length: int
    options: dict[str, Any] = attrs.field(factory=dict)
    guided: Callable[[float], dict[str, Any]] = lambda scale: {"guidance_scale": scale}
    packed: Callable[[Tensor], Tensor] = lambda latents: latents
    published: Callable[[Any, Tensor], Tensor] = lambda backbone, latents: latents
    reload: dict[str, Any] = attrs.field(factory=dict)
    # The fewest steps that the scheduler has a grid of.
    least: int = 1
    # Of the decoder's gradient in float64 against differences: some round on the way.
    coarseness: float = 1e-7

    def changed(self, **components: Any) -> Any:
        """A pipeline of this family with other components in the place of some."""
        pipeline = deepcopy(self.pipeline())
        for name, component in components.items():
            setattr(pipeline, name, component)
        return pipeline

    def backbone(self, pipeline: Any = None, **options: Any) -> Any:
        """The backbone over a pipeline of this family."""
        options = {"text_length": self.text_length} | self.options | options
        return self.kind.from_pipeline(pipeline or self.pipeline(), **options)

    def call(self, pipeline: Any, request: PipelineRequest) -> Tensor:
        """What the pipeline makes of a request of `check_parity`."""
        return self.sample(
            pipeline,
            list(request.prompts),
            scale=request.guidance,
            height=request.height,
            width=request.width,
            num_inference_steps=request.steps,
            latents=request.latents,
            output_type=request.output,
        )

    def sample(self, pipeline: Any, prompts: list[str], *, scale: float, **options: Any) -> Tensor:
        """What the pipeline makes of the backbone's noise `latents`."""
        if "latents" in options:
            options["latents"] = self.packed(options["latents"])
        return pipeline(
            # A copy, as Z-Image's writes its template into the list.
            prompt=list(prompts),
            max_sequence_length=self.text_length,
            **self.guided(scale),
            **options,
        ).images


def _packed(latents: Tensor) -> Tensor:
    return to_sequence(patchify(latents))


def _dev(scale: float) -> dict[str, Any]:
    return {"guidance_scale": EMBEDDED} | _schnell(scale)


def _schnell(scale: float) -> dict[str, Any]:
    return {"true_cfg_scale": scale, "negative_prompt": ["", ""]} if scale > 1 else {}


_flux1 = dict(
    kind=Flux1Backbone,
    text_length=16,
    packed=_packed,
    published=lambda backbone, latents: _packed(latents),
)

FAMILIES = {
    "sd3": Family(
        cache(lambda: tiny_pipeline(t5=False)),
        SD3Backbone,
        16,
        reload={"text_encoder_3": None, "tokenizer_3": None},
    ),
    "sd3 with T5": Family(cache(lambda: tiny_pipeline(t5=True)), SD3Backbone, 16),
    "flux1 dev": Family(
        cache(flux1_pipeline), options={"embedded_guidance": EMBEDDED}, guided=_dev, **_flux1
    ),
    "flux1 schnell": Family(
        cache(lambda: flux1_pipeline(guidance_embeds=False)), guided=_schnell, **_flux1
    ),
    "flux2 klein-base": Family(
        cache(flux2_pipeline),
        Flux2Backbone,
        64,
        published=lambda backbone, latents: backbone.decoder.unscale(backbone.decoder.vae, latents),
    ),
    "z_image": Family(
        cache(z_image_pipeline),
        ZImageBackbone,
        64,
        guided=lambda scale: {"guidance_scale": scale - 1},
    ),
    "qwen_image": Family(
        cache(qwen_image_pipeline),
        QwenImageBackbone,
        64,
        guided=lambda scale: {"true_cfg_scale": scale, "negative_prompt": ["", ""]},
        packed=_packed,
        published=lambda backbone, latents: _packed(latents),
        least=2,
        # diffusers enlarges the picture in float32.
        coarseness=1e-3,
    ),
}
