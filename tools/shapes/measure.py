"""The metrics of the finished parts, measured on held-out captions from the exported folders."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import attrs
import torch
from torch import Tensor

from flowbp.rewards.pixels import CLIP_MEAN, CLIP_STD, normalise
from flowbp.shapes.checker import check
from flowbp.shapes.prompts import PROMPT_KINDS, Prompt, heldout_prompts
from flowbp.shapes.render import render
from flowbp.shapes.scene import Scene, Shape
from flowbp.shapes.scene_reading import read_scenes
from flowbp.shapes.scene_sampling import sample_scene
from tools.shapes.corpus import draw_prompts, tokenize
from tools.shapes.corruption import ATTRIBUTES, near_misses
from tools.shapes.flaws import edited
from tools.shapes.reward import unit

SAMPLERS = ((10, 1.0, 1), (10, 1.0, 256), (28, 1.0, 1), (28, 2.0, 1), (28, 4.0, 1))
"""Steps, guidance and T5 positions that the base model's accuracy is recorded at."""


def measure(folder: Path, device: torch.device, count: int) -> dict[str, Any]:
    """All metrics, over `count` pictures each, of a folder that holds `base` and `reward`."""
    from diffusers import StableDiffusion3Pipeline

    pipeline: Any = StableDiffusion3Pipeline.from_pretrained(folder / "base").to(device)
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(10)
    prompts = draw_prompts(heldout_prompts(), count, generator)
    scenes = [sample_scene(prompt, generator) for prompt in prompts]
    pictures = render(scenes, device=device)
    decoded = _round_trip(pipeline.vae, pictures)
    edits = _edits(prompts, scenes, Random(12))
    wrong = _round_trip(pipeline.vae, render([edit.scene for edit in edits], device=device))
    with _quiet():  # else every batch warns that T5's caption is cut
        drawn = [_sample(pipeline, prompts, *sampler) for sampler in SAMPLERS]
    verdicts = [check(images, prompts).cpu() for images in drawn]
    return {
        "pictures": count,
        "checker": {
            "rendered": _read_back(pictures, scenes),
            "after_autoencoder": _read_back(decoded, scenes),
        },
        "autoencoder_psnr_db": -10 * ((decoded - pictures) ** 2).mean().log10().item(),
        "base": [
            {
                **dict(zip(("steps", "guidance", "t5_positions"), sampler, strict=True)),
                "accuracy": passed.float().mean().item(),
                "by_kind": _by_kind(passed, prompts),
            }
            for sampler, passed in zip(SAMPLERS, verdicts, strict=True)
        ],
        "reward": _reward(
            folder / "reward", prompts, decoded, (edits, wrong), (drawn[0], verdicts[0])
        ),
    }


@attrs.frozen
class _Edit:
    """A right scene, by its number, in which one attribute of its caption was made wrong."""

    number: int
    attribute: str
    scene: Scene


def _edits(prompts: Sequence[Prompt], scenes: Sequence[Scene], random: Random) -> list[_Edit]:
    """Each scene once with each attribute of its caption wrong, where there is room for that."""
    return [
        _Edit(number, attribute, wrong)
        for number, (prompt, scene) in enumerate(zip(prompts, scenes, strict=True))
        for attribute, options in near_misses(prompt).items()
        if (wrong := edited(scene, prompt, random.choice(options), random)) is not None
    ]


@contextmanager
def _quiet() -> Iterator[None]:
    from diffusers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)


@torch.no_grad()
def _round_trip(vae: Any, pictures: Tensor) -> Tensor:
    pieces = [
        vae.decode(vae.encode(p * 2 - 1).latent_dist.mean).sample
        for p in torch.split(pictures, 256)
    ]
    return (torch.cat(pieces) / 2 + 0.5).clamp(0, 1)


def _read_back(pictures: Tensor, scenes: Sequence[Scene]) -> float:
    """Part of the pictures that the checker reads as the scene they were drawn from.

    Kinds, colours and numbers must be the same, and every centre within 2 pixels.
    """
    readings = read_scenes(pictures)
    right = [
        not reading.unknown and _same(reading.shapes, scene.shapes)
        for reading, scene in zip(readings, scenes, strict=True)
    ]
    return sum(right) / len(right)


def _same(read: Sequence[Shape], drawn: Sequence[Shape]) -> bool:
    left = list(drawn)
    for shape in read:
        near = [
            other
            for other in left
            if (other.kind, other.colour) == (shape.kind, shape.colour)
            and math.hypot(other.x - shape.x, other.y - shape.y) <= 2
        ]
        if not near:
            return False
        left.remove(near[0])
    return not left


def _sample(
    pipeline: Any, prompts: Sequence[Prompt], steps: int, guidance: float, positions: int
) -> Tensor:
    generator = torch.Generator(pipeline.device).manual_seed(11)
    drawn = [
        pipeline(
            [prompt.text for prompt in prompts[start : start + 256]],
            height=64,
            width=64,
            num_inference_steps=steps,
            guidance_scale=guidance,
            max_sequence_length=positions,
            generator=generator,
            output_type="pt",
        ).images.float()
        for start in range(0, len(prompts), 256)
    ]
    return torch.cat(drawn)


def _by_kind(verdicts: Tensor, prompts: Sequence[Prompt]) -> dict[str, float]:
    return {
        kind: verdicts[[n for n, p in enumerate(prompts) if p.kind == kind]].float().mean().item()
        for kind in PROMPT_KINDS
    }


def _reward(
    folder: Path,
    prompts: Sequence[Prompt],
    pictures: Tensor,
    edited_pictures: tuple[Sequence[_Edit], Tensor],
    samples: tuple[Tensor, Tensor],
) -> dict[str, Any]:
    """How the reward ranks right pictures, the same with an edit, and samples with verdicts."""
    from transformers import CLIPModel, CLIPTokenizer

    model: Any = CLIPModel.from_pretrained(folder).to(pictures.device, torch.float32).eval()
    tokens = tokenize(CLIPTokenizer.from_pretrained(folder), [prompt.text for prompt in prompts])
    said = _embed(model, tokens=tokens.to(pictures.device))
    right = _embed(model, pictures=pictures)
    edits, wrong_pictures = edited_pictures
    numbers = [edit.number for edit in edits]
    own = (right * said).sum(-1)
    others = (_embed(model, pictures=wrong_pictures) * said[numbers]).sum(-1)
    preferred = (own[numbers] > others).float().cpu()
    sampled, verdicts = samples
    scores = (_embed(model, pictures=sampled) * said).sum(-1).cpu()
    return {
        "score_of_right_pictures": own.mean().item(),
        "score_of_wrong_pictures": others.mean().item(),
        "retrieval_among_64": _retrieval(right, said),
        "prefers_right_picture": preferred.mean().item(),
        "prefers_right_picture_by_wrong_attribute": {
            attribute: preferred[[edit.attribute == attribute for edit in edits]].mean().item()
            for attribute in ATTRIBUTES
        },
        "ranks_passed_above_failed_samples": _agreement(scores, verdicts, prompts),
    }


def _retrieval(right: Tensor, said: Tensor) -> float:
    """How often a picture's own caption scores best within its group of 64."""
    groups = len(said) // 64
    scores = torch.einsum(
        "gpd,gcd->gpc",
        right[: groups * 64].reshape(groups, 64, -1),
        said[: groups * 64].reshape(groups, 64, -1),
    )
    # Captions may repeat within a group: the best score counts, whoever holds it.
    own = scores.diagonal(dim1=1, dim2=2)
    return (own >= scores.amax(dim=2) - 1e-6).float().mean().item()


def _agreement(scores: Tensor, verdicts: Tensor, prompts: Sequence[Prompt]) -> float | None:
    """How often a sample that passes scores above one of its kind of prompt that fails, if any."""
    wins, pairs = 0.0, 0
    for kind in PROMPT_KINDS:
        own = torch.tensor([prompt.kind == kind for prompt in prompts])
        passed, failed = scores[own & verdicts], scores[own & ~verdicts]
        wins += (passed[:, None] > failed).float().sum().item()
        pairs += len(passed) * len(failed)
    return wins / pairs if pairs else None


@torch.no_grad()
def _embed(model: Any, *, pictures: Tensor | None = None, tokens: Tensor | None = None) -> Tensor:
    if pictures is None:
        return unit(model.get_text_features(input_ids=tokens))
    pixels = normalise(pictures, CLIP_MEAN, CLIP_STD)
    pieces = [unit(model.get_image_features(pixel_values=p)) for p in torch.split(pixels, 512)]
    return torch.cat(pieces)
