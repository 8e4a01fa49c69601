"""The shipped presets and the published values that they must hold, for the tests of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from flowbp.core import (
    Bridge,
    DirichletPair,
    DRaFTLV,
    DRTune,
    Lagrange,
    LeapAlign,
    ReFL,
    Sparse,
    UniformPair,
)

from .adapters.families import FAMILIES

ROOT = Path(__file__).parents[1]
BACKBONES = ("sd35_medium", "flux1_dev", "flux2_klein")


def _lagrange(**values: object) -> Lagrange:
    return Lagrange(order=3, active=2, support_scale=0.25, alpha=0.1, **values)


# The published table: one value for all backbones, or one for each of BACKBONES.
PUBLISHED = {
    "refl": 3 * (ReFL(last=11),),
    "draft_lv": 3 * (DRaFTLV(noised=2),),
    "drtune": 3 * (DRTune(active=3, stop_ratio=0.4),),
    "leap_align": 3 * (LeapAlign(alpha=0.3, tau=0.1, pair=UniformPair()),),
    "sparse": (
        Sparse(active=4, late_bias=1.0, rescale=0.5),
        Sparse(active=3, late_bias=2.0, rescale=1.0),
        Sparse(active=4, late_bias=2.0, rescale=0.0),
    ),
    "bridge": (
        Bridge(active=5, late_bias=4.0, rescale=0.0, alpha=0.5),
        Bridge(active=5, late_bias=2.0, rescale=1.0, alpha=0.1),
        Bridge(active=3, late_bias=4.0, rescale=0.5, alpha=1.0),
    ),
    "lagrange": (
        _lagrange(tau=0.2, rescale=0.0, pair=DirichletPair(2.5, 6, 2, cap=9)),
        _lagrange(tau=0.2, rescale=0.5, pair=DirichletPair(2.5, 6, 2)),
        _lagrange(tau=0.1, rescale=0.0, pair=DirichletPair(2.5, 6, 2), tail=0.7),
    ),
}
METHODS = tuple(PUBLISHED)
COMBINATIONS = [(backbone, method) for backbone in BACKBONES for method in METHODS]


def named(*names: str) -> list[str]:
    """What is typed to name the preset of a backbone, and of a method on it, in their order."""
    (backbone,) = set(names) & set(BACKBONES)
    places = (name if name == backbone else f"{backbone}/{name}" for name in names)
    return [f"presets/{place}.yaml" for place in places]


OURS = {
    "sd35_large": "sd3",
    "flux1_schnell": "flux1 schnell",
    "z_image": "z_image",
    "qwen_image": "qwen_image",
}
"""The presets of models for which nothing was published, to the tiny model that stands for each."""
TINY = dict(zip(BACKBONES, ("sd3", "flux1 dev", "flux2 klein-base"), strict=True)) | OURS
OVERLAY = """
run: {{folder: {folder}, device: cpu, threads: 1, compile: false}}
backbone: {{source: {source}, text_length: {text_length}}}
reward: {{name: clip, source: {reward}}}
loss: {{name: linear}}
prompts: {{name: shapes}}
embeddings: {{folder: null}}
sampling: {{height: 16, width: 16}}
batching: {{samples: 2, global: 2, pull: 1}}
training: {{steps: 1, averaging: null}}
samples: null
checkpoints: {{every: null, keep: null}}
observers: {{tensorboard: false}}
"""
# Samples of a GPU, and portions of them that make its share of a step.
SAMPLES = {
    "sd35_medium": {"draft_lv": (4, 1), None: (8, 1)},
    "flux1_dev": {"leap_align": (8, 1), "bridge": (8, 1), "lagrange": (8, 1), None: (4, 1)},
    "flux2_klein": {"draft_lv": (2, 2), None: (4, 1)},
}
GPUS = 8


def write_tiny(backbone: str, sources: Mapping[str, Path], models: Path, folder: Path) -> str:
    """Write what follows presets in place of one's own file: one step of a tiny model."""
    path = folder / "tiny.yaml"
    path.write_text(
        OVERLAY.format(
            folder=folder / "run",
            source=sources[backbone],
            text_length=FAMILIES[TINY[backbone]].text_length,
            reward=models / "reward",
        )
    )
    return str(path)
