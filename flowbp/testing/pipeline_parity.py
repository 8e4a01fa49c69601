"""Parity of a backbone with the pipeline that its components come from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any, Literal, Protocol

import attrs
import torch
from torch import Tensor

from flowbp.adapters import Backbone, rescale_of
from flowbp.core import guided_velocity, rollout

from .assertions import assert_within


@attrs.frozen(kw_only=True, eq=False)
class PipelineRequest:
    """What a pipeline is asked to sample.

    Args:
        prompts: B of them.
        height: in pixels.
        width: in pixels.
        steps: N of the sampler.
        guidance: scale of classifier-free guidance against the empty prompt; 1 is none.
        latents: the noise (B, …) to start from, as the backbone draws it.
        generator: fresh, seeded like the one that `latents` were drawn with.
        output: ``"latent"`` for what the sampler ends with, ``"pt"`` for images (B, 3, H, W) in
            [0, 1].
    """

    prompts: Sequence[str]
    height: int
    width: int
    steps: int
    guidance: float
    latents: Tensor
    generator: torch.Generator
    output: Literal["latent", "pt"]


class PipelineCall(Protocol):
    """Calls a pipeline with the arguments that it has, as `call_pipeline` does."""

    def __call__(self, pipeline: Any, request: PipelineRequest, /) -> Tensor:
        """What the pipeline gives: latents or images, as `request.output` says."""
        ...


def call_pipeline(pipeline: Any, request: PipelineRequest, /, **options: Any) -> Tensor:
    """Call a pipeline with the arguments that most of diffusers have.

    Args:
        pipeline: whose guidance is ``guidance_scale`` and whose ``latents`` have the backbone's
            form.
        request: what to sample.
        options: further arguments, such as ``max_sequence_length``; of the same name they win.

    Returns:
        Latents or images.

    Example:
        >>> from types import SimpleNamespace
        >>> def pipeline(prompt, *, latents, generator, **options):
        ...     return SimpleNamespace(images=latents * options["guidance_scale"])
        >>> request = PipelineRequest(
        ...     prompts=["a"], height=8, width=8, steps=1, guidance=3.5, latents=torch.ones(1),
        ...     generator=torch.Generator(), output="latent",
        ... )
        >>> call_pipeline(pipeline, request)
        tensor([3.5000])
    """
    arguments = {
        "prompt": list(request.prompts),
        "height": request.height,
        "width": request.width,
        "num_inference_steps": request.steps,
        "guidance_scale": request.guidance,
        "latents": request.latents,
        "generator": request.generator,
        "output_type": request.output,
    }
    images: Tensor = pipeline(**(arguments | options)).images
    return images


def _unchanged(latents: Tensor) -> Tensor:
    return latents


def check_parity(
    pipeline: Any,
    backbone: Backbone,
    call: PipelineCall = call_pipeline,
    *,
    sizes: Sequence[tuple[int, int]],
    prompts: Sequence[str] = ("a red box", "two dots"),
    guidances: Sequence[float] = (1.0, 3.5),
    steps: int = 5,
    returned: Callable[[Tensor], Tensor] = _unchanged,
    tolerance: float = 1e-5,
    seed: int = 0,
) -> None:
    """Assert that a backbone samples and decodes what its pipeline does.

    From the same noise, at every size and guidance: the final latents `x_N`, and the images.

    Args:
        pipeline: in evaluation mode; called twice for each size and guidance.
        backbone: made from its components, in float32.
        call: calls the pipeline; gives latents or images.
        sizes: (height, width) in pixels, best square and not.
        prompts: B of them.
        guidances: scales of classifier-free guidance, 1 for none; a model distilled to do
            without has only 1.
        steps: N of the sampler.
        returned: from the backbone's latents to the form in which `call` gives latents.
        tolerance: largest difference of an entry; trained models amplify rounding beyond 1e-5.
        seed: of the noise.

    Raises:
        AssertionError: names size and guidance, the largest difference and where it is.
        ValueError: no prompt, size or guidance to check.

    Example:
        >>> from diffusers import StableDiffusion3Pipeline
        >>> from flowbp.adapters import SD3Backbone
        >>> from flowbp.shapes.embedded import base_folder
        >>> parts = {"text_encoder_3": None, "tokenizer_3": None}
        >>> pipeline = StableDiffusion3Pipeline.from_pretrained(base_folder(), **parts)
        >>> pipeline.set_progress_bar_config(disable=True)
        >>> backbone = SD3Backbone.from_pipeline(pipeline)
        >>> check_parity(pipeline, backbone, sizes=[(32, 32)], tolerance=1e-3)
    """
    for name, values in {"sizes": sizes, "guidances": guidances, "prompts": prompts}.items():
        if not values:
            raise ValueError(f"`{name}` must hold at least one to check, got {values!r}")
    for (height, width), guidance in product(sizes, guidances):
        generator = torch.Generator().manual_seed(seed)
        noise = backbone.noise(len(prompts), height=height, width=width, generator=generator)
        request = PipelineRequest(
            prompts=prompts,
            height=height,
            width=width,
            steps=steps,
            guidance=guidance,
            latents=noise.to(backbone.device),
            generator=generator,
            output="latent",
        )
        latents, images = _sample(backbone, request)
        for name, ours, asked in (
            ("latents", returned(latents), request),
            ("images", images, attrs.evolve(request, output="pt")),
        ):
            generator.manual_seed(seed)
            theirs = call(pipeline, asked).to(ours)
            at = f"{height}x{width} with guidance {guidance:g}"
            assert_within(f"{name} at {at}", ours, theirs, tolerance)


@torch.no_grad()
def _sample(backbone: Backbone, request: PipelineRequest) -> tuple[Tensor, Tensor]:
    """The backbone's own final latents and images."""
    velocity = backbone.velocity(backbone.encode(request.prompts))
    if request.guidance != 1:
        empty = backbone.encode([""]).repeat(len(request.prompts))
        rescale = rescale_of(backbone)
        opposite = backbone.velocity(empty)
        velocity = guided_velocity(velocity, opposite, request.guidance, rescale=rescale)
    sigmas = backbone.sigmas(request.steps, height=request.height, width=request.width)
    latents = rollout(velocity, request.latents, sigmas).sample
    return latents, backbone.decode(latents)
