"""Every name that a run's YAML can use for a component, and where others register theirs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch

from flowbp.adapters import Backbone, Grid, Tuning
from flowbp.adapters.decoder import Clamp
from flowbp.config import Library, Registry, Scalar
from flowbp.core import ActiveDraw, LossShape, Method, PairDraw, Quadrature
from flowbp.evaluation import Judge, Metric
from flowbp.evaluation.metrics import Embedding
from flowbp.prompts.sources import HeldOutSource
from flowbp.rewards import Reward
from flowbp.rewards.pixels import Resize
from flowbp.training import (
    Observer,
    OptimizerClass,
    OptimizerRecipe,
    PromptSource,
    Schedule,
    ScheduleFunction,
    optimizer_classes,
    schedule_functions,
)
from flowbp.training.optimizer_classes import is_optimizer_class
from flowbp.training.schedule_functions import is_schedule_function

_PICTURES = frozenset({"images", "prompts"})


def _registry(
    kind: str,
    builds: Any,
    targets: Mapping[str, str],
    *offers: str,
    called_with: frozenset[str] = frozenset(),
    also: tuple[Registry, ...] = (),
    library: Library | None = None,
    extra: str = "",
) -> Registry:
    return Registry(
        kind,
        targets,
        builds=builds,
        entry_points="flowbp." + re.sub("[ -]", "_", kind) + "s",
        offers=frozenset(offers),
        called_with=called_with,
        also=also,
        library=library,
        extra=extra,
    )


REWARDS = _registry(
    "reward",
    Reward,
    {
        "aesthetic": "flowbp.rewards:AestheticScore",
        "clip": "flowbp.rewards:ClipReward.from_pretrained",
        "clipscore": "flowbp.rewards:CLIPScore",
        "easyocr": "flowbp.rewards:EasyOCR",
        "hpsv2": "flowbp.rewards:HPSv2",
        "hpsv3": "flowbp.rewards:HPSv3",
        "image_reward": "flowbp.rewards:ImageReward",
        "pickscore": "flowbp.rewards:PickScore",
        "shapes": "flowbp.shapes.embedded:embedded_reward",
        "trocr": "flowbp.rewards:TrOCR",
        "weighted": "flowbp.settings.weighted_reward:weighted_reward",
    },
    "device",
    "towers",
    called_with=_PICTURES,
)

METRICS = _registry(
    "metric",
    Metric,
    {
        "distance": "flowbp.settings.metric_factories:distance_metric",
        "diversity": "flowbp.settings.metric_factories:diversity_metric",
        "geneval": "flowbp.evaluation.metrics.geneval:GenEval",
        "judge": "flowbp.settings.metric_factories:judge_metric",
        "pixel_distance": "flowbp.evaluation.metrics:PixelDistance",
        "ppocr": "flowbp.evaluation.metrics:PPOCR",
        "reward": "flowbp.settings.metric_factories:reward_metric",
        "unified_reward": "flowbp.evaluation.metrics:UnifiedReward",
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
            "flux1": "flowbp.adapters:Flux1Backbone.from_pretrained",
            "flux2": "flowbp.adapters:Flux2Backbone.from_pretrained",
            "qwen_image": "flowbp.adapters:QwenImageBackbone.from_pretrained",
            "sd3": "flowbp.adapters:SD3Backbone.from_pretrained",
            "shapes": "flowbp.shapes.embedded:embedded_backbone",
            "z_image": "flowbp.adapters:ZImageBackbone.from_pretrained",
        },
        "device",
    ),
    _registry("tuning", Tuning, {"full": "flowbp.adapters:Full", "lora": "flowbp.adapters:Lora"}),
    REWARDS,
    METRICS,
    _registry(
        "picture embedding",
        Embedding,
        {"clip": "flowbp.evaluation.metrics:clip_embedding"},
        "device",
        "towers",
        called_with=frozenset({"images"}),
    ),
    _registry(
        "judge",
        Judge,
        {
            "ppocr": "flowbp.evaluation.metrics:PPOCRJudge",
            "shapes": "flowbp.shapes:ShapesChecker",
            "threshold": "flowbp.settings.metric_factories:threshold_judge",
        },
        "device",
        "towers",
        called_with=_PICTURES,
        also=(REWARDS,),
    ),
    _registry(
        "prompt source",
        PromptSource,
        {
            "shapes": "flowbp.prompts:ShapesPrompts",
            "text": "flowbp.prompts:TextPrompts",
            "dataset": "flowbp.prompts:DatasetPrompts",
        },
    ),
    _registry(
        "held-out source",
        HeldOutSource,
        {
            "geneval": "flowbp.evaluation.metrics.geneval:GenEvalHeldOut",
            "shapes": "flowbp.prompts:ShapesHeldOut",
            "text": "flowbp.prompts:TextHeldOut",
            "dataset": "flowbp.prompts:DatasetHeldOut",
        },
    ),
    _registry(
        "method",
        Method,
        {
            "refl": "flowbp.core:ReFL",
            "draft": "flowbp.core:DRaFT",
            "draft_lv": "flowbp.core:DRaFTLV",
            "drtune": "flowbp.core:DRTune",
            "leap_align": "flowbp.core:LeapAlign",
            "sparse": "flowbp.core:Sparse",
            "bridge": "flowbp.core:Bridge",
            "lagrange": "flowbp.core:Lagrange",
            "variant": "flowbp.core:Variant",
        },
    ),
    _registry(
        "pair draw",
        PairDraw,
        {
            "uniform": "flowbp.core:UniformPair",
            "dirichlet": "flowbp.core:DirichletPair",
            "midpoint": "flowbp.core:MidpointPair",
            "midpoint_j": "flowbp.core:MidpointJPair",
        },
    ),
    _registry(
        "active draw",
        ActiveDraw,
        {
            "every_step": "flowbp.core:EveryStep",
            "first_steps": "flowbp.core:FirstSteps",
            "late_biased": "flowbp.core:LateBiased",
        },
    ),
    _registry(
        "quadrature",
        Quadrature,
        {
            "euler": "flowbp.core:euler",
            "lagrange": "flowbp.core:lagrange",
            "uniform": "flowbp.core:uniform",
            "adams_bashforth": "flowbp.core:adams_bashforth",
            "multistep": "flowbp.core:multistep",
        },
    ),
    _registry(
        "grid",
        Grid,
        {
            "even": "flowbp.adapters:EvenGrid",
            "listed": "flowbp.adapters:ListedGrid",
            "model": "flowbp.adapters:ModelGrid",
        },
    ),
    _registry(
        "loss shape",
        LossShape,
        {
            "hinge": "flowbp.core:Hinge",
            "linear": "flowbp.core:Linear",
            "target": "flowbp.core:Target",
        },
    ),
    _registry(
        "optimizer",
        OptimizerRecipe,
        {
            "adamw": "flowbp.training:AdamW",
            "adamw_8bit": "torchao.optim:AdamW8bit",
            "prodigy": "prodigyopt:Prodigy",
            "schedule_free": "schedulefree:AdamWScheduleFree",
        },
        library=Library(
            fits=is_optimizer_class,
            component=OptimizerClass,
            supplied=optimizer_classes.SUPPLIED,
            example="torch.optim:SGD",
            faults=optimizer_classes.faults_of,
        ),
        extra="optimizers",
    ),
    _registry(
        "schedule",
        Schedule,
        {
            "constant": "flowbp.training:Constant",
            "linear": "flowbp.training:LinearDecay",
            "cosine": "flowbp.training:CosineDecay",
            # Of transformers, under the names of its `get_scheduler` that are not taken.
            "constant_with_warmup": "transformers:get_constant_schedule_with_warmup",
            "cosine_with_restarts": (
                "transformers:get_cosine_with_hard_restarts_schedule_with_warmup"
            ),
            "cosine_with_min_lr": (
                "transformers.optimization:get_cosine_with_min_lr_schedule_with_warmup"
            ),
            "inverse_sqrt": "transformers:get_inverse_sqrt_schedule",
            "polynomial": "transformers:get_polynomial_decay_schedule_with_warmup",
            "warmup_stable_decay": "transformers:get_wsd_schedule",
        },
        library=Library(
            fits=is_schedule_function,
            component=ScheduleFunction,
            supplied=schedule_functions.SUPPLIED,
            example="transformers:get_linear_schedule_with_warmup",
            faults=lambda target, arguments: {},
        ),
        extra="models",
    ),
    _registry("observer", Observer, {}, "configuration", "folder", "steps"),
    _registry(
        "clamp",
        Clamp,
        {"hard": "flowbp.adapters:hard_clamp", "returning": "flowbp.adapters:returning_clamp"},
    ),
    _registry(
        "resize",
        Resize,
        {
            "crop_shortest_side": "flowbp.rewards.pixels:crop_shortest_side",
            "crop_shortest_side_torchvision": (
                "flowbp.rewards.pixels:crop_shortest_side_torchvision"
            ),
            "pad_longest_side": "flowbp.rewards.pixels:pad_longest_side",
            "stretch": "flowbp.rewards.pixels:stretch",
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
