"""Every name that a run's YAML can use for a component, and where others register theirs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch

from flowbp.adapters import Backbone, Grid, Tuning
from flowbp.adapters.clamp import Clamp
from flowbp.configuration import Registry, Scalar
from flowbp.core import ActiveDraw, LossShape, Method, PairDraw, Quadrature
from flowbp.evaluation import Judge, Metric
from flowbp.metrics import Embedding
from flowbp.rewards import Reward
from flowbp.rewards.pixels import Resize
from flowbp.settings.prompts import HeldOutSource
from flowbp.training import Observer, OptimizerRecipe, PromptSource, Schedule

_PICTURES = frozenset({"images", "prompts"})


def _registry(
    kind: str,
    builds: Any,
    targets: Mapping[str, str],
    *offers: str,
    called_with: frozenset[str] = frozenset(),
    also: tuple[Registry, ...] = (),
) -> Registry:
    return Registry(
        kind,
        {name: f"flowbp.{target}" for name, target in targets.items()},
        builds=builds,
        entry_points="flowbp." + re.sub("[ -]", "_", kind) + "s",
        offers=frozenset(offers),
        called_with=called_with,
        also=also,
    )


REWARDS = _registry(
    "reward",
    Reward,
    {
        "aesthetic": "rewards:AestheticScore",
        "clip": "rewards:ClipReward.from_pretrained",
        "clipscore": "rewards:CLIPScore",
        "hpsv2": "rewards:HPSv2",
        "hpsv3": "rewards:HPSv3",
        "image_reward": "rewards:ImageReward",
        "pickscore": "rewards:PickScore",
        "shapes": "shapes.embedded:embedded_reward",
        "weighted": "settings.rewards:weighted_reward",
    },
    "device",
    "towers",
    called_with=_PICTURES,
)

METRICS = _registry(
    "metric",
    Metric,
    {
        "distance": "settings.set_metrics:distance_metric",
        "diversity": "settings.set_metrics:diversity_metric",
        "geneval": "geneval:GenEval",
        "judge": "settings.metrics:judge_metric",
        "pixel_distance": "settings.set_metrics:pixel_distance_metric",
        "reward": "settings.metrics:reward_metric",
        "unified_reward": "metrics:UnifiedReward",
    },
    "device",
    "label",
    "points",
    "towers",
    called_with=_PICTURES,
    also=(REWARDS,),
)
"""What an evaluation measures. A reward's name stands for the reward as a metric."""

REGISTRIES: tuple[Registry, ...] = (
    _registry(
        "backbone",
        Backbone,
        {
            "flux1": "adapters:Flux1Backbone.from_pretrained",
            "flux2": "adapters:Flux2Backbone.from_pretrained",
            "sd3": "adapters:SD3Backbone.from_pretrained",
            "shapes": "shapes.embedded:embedded_backbone",
        },
        "device",
    ),
    _registry("tuning", Tuning, {"full": "adapters:Full", "lora": "adapters:Lora"}),
    REWARDS,
    METRICS,
    _registry(
        "picture embedding",
        Embedding,
        {"clip": "metrics:clip_embedding"},
        "device",
        "towers",
        called_with=frozenset({"images"}),
    ),
    _registry(
        "judge",
        Judge,
        {"shapes": "shapes:ShapesChecker", "threshold": "settings.metrics:threshold_judge"},
        "device",
        "towers",
        called_with=_PICTURES,
    ),
    _registry(
        "prompt source",
        PromptSource,
        {
            "shapes": "settings.prompts:ShapesPrompts",
            "text": "prompts:TextPrompts",
            "dataset": "prompts:DatasetPrompts",
        },
    ),
    _registry(
        "held-out source",
        HeldOutSource,
        {
            "geneval": "geneval:GenEvalHeldOut",
            "shapes": "settings.prompts:ShapesHeldOut",
            "text": "prompts:TextHeldOut",
            "dataset": "prompts:DatasetHeldOut",
        },
    ),
    _registry(
        "method",
        Method,
        {
            "refl": "core:ReFL",
            "draft": "core:DRaFT",
            "draft_lv": "core:DRaFTLV",
            "drtune": "core:DRTune",
            "leap_align": "core:LeapAlign",
            "sparse": "core:Sparse",
            "bridge": "core:Bridge",
            "lagrange": "core:Lagrange",
            "variant": "core:Variant",
        },
    ),
    _registry(
        "pair draw",
        PairDraw,
        {
            "uniform": "core:UniformPair",
            "dirichlet": "core:DirichletPair",
            "midpoint": "core:MidpointPair",
            "midpoint_j": "core:MidpointJPair",
        },
    ),
    _registry(
        "active draw",
        ActiveDraw,
        {
            "every_step": "core:EveryStep",
            "first_steps": "core:FirstSteps",
            "late_biased": "core:LateBiased",
        },
    ),
    _registry(
        "quadrature",
        Quadrature,
        {
            "euler": "core:euler",
            "lagrange": "core:lagrange",
            "uniform": "core:uniform",
            "adams_bashforth": "core:adams_bashforth",
            "multistep": "core:multistep",
        },
    ),
    _registry(
        "grid",
        Grid,
        {
            "even": "adapters:EvenGrid",
            "listed": "adapters:ListedGrid",
            "model": "adapters:ModelGrid",
        },
    ),
    _registry(
        "loss shape",
        LossShape,
        {"hinge": "core:Hinge", "linear": "core:Linear", "target": "core:Target"},
    ),
    _registry("optimizer", OptimizerRecipe, {"adamw": "training:AdamW"}),
    _registry(
        "schedule",
        Schedule,
        {
            "constant": "training:Constant",
            "linear": "training:LinearDecay",
            "cosine": "training:CosineDecay",
        },
    ),
    _registry("observer", Observer, {}, "folder", "steps"),
    _registry(
        "clamp",
        Clamp,
        {"hard": "adapters:hard_clamp", "returning": "adapters:returning_clamp"},
    ),
    _registry(
        "resize",
        Resize,
        {
            "crop_shortest_side": "rewards.pixels:crop_shortest_side",
            "crop_shortest_side_torchvision": "rewards.pixels:crop_shortest_side_torchvision",
            "pad_longest_side": "rewards.pixels:pad_longest_side",
            "stretch": "rewards.pixels:stretch",
        },
    ),
)
"""The kinds of component. An entry point of the group `flowbp.<kind>s`, such as `flowbp.rewards` or
`flowbp.prompt_sources`, adds a name."""


def _dtype(name: Any) -> torch.dtype:
    found = getattr(torch, name, None) if isinstance(name, str) else None
    if not isinstance(found, torch.dtype):
        raise ValueError(f"must be a dtype of torch, got {name!r}; write float32 or bfloat16")
    return found


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


SCALARS: tuple[Scalar, ...] = (Scalar(torch.dtype, read=_dtype, write=_dtype_name),)
"""Further types that a component's arguments may have."""
