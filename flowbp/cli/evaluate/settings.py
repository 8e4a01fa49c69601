"""The settings of an evaluation: one class for each section, checked as it is built."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import attrs

from flowbp.adapters import ATTENTIONS, Backbone
from flowbp.config import Component
from flowbp.evaluation import Metric, Sampling
from flowbp.limits import BATCH, SEEDS, THREADS, labels
from flowbp.prompts import HeldOutSource
from flowbp.settings import EmbeddingSettings
from flowbp.settings.device import check_device
from flowbp.validators import integer, one_of, real

_COLUMNS = dict.fromkeys(
    ("model", "number", "seed", "prompt", "kind"), "another column of scores.csv"
)


def _seeds(_: Any, attribute: attrs.Attribute[Any], value: tuple[int, ...]) -> None:
    if not value or len(set(value)) < len(value) or min(value) < 0:
        raise ValueError(
            f"`{attribute.name}` must be distinct numbers of at least 0, got {list(value)}; every "
            "prompt gets one picture per seed"
        )
    if len(value) > SEEDS:
        raise ValueError(f"`{attribute.name}` must be at most {SEEDS}, got {len(value)}")


def _some(_: Any, attribute: attrs.Attribute[Any], value: Mapping[str, Any]) -> None:
    if not value:
        raise ValueError(f"`{attribute.name}` is empty; write base: {{}} for the backbone itself")


@attrs.frozen(kw_only=True)
class EvaluationSection:
    """Where an evaluation writes, what it runs on, and how it takes failures.

    Args:
        folder: everything goes here; it must be new or empty, unless the evaluation in it goes on.
        device: `auto` takes CUDA where there is any, else the CPU.
        threads: of torch on the CPU; torch decides if null.
        compile: the network's blocks and the decoder with torch.compile; the first batches take a
            minute or two longer, the others are faster on a GPU.
        attention: the kernel of the network's attention on CUDA, as a run's: `auto` measures
            `cudnn`, `flash` and `efficient` once for each shape and takes the fastest that agrees
            with float32; `native` is what diffusers and torch choose. Elsewhere `auto` is `native`.
        seeds: of the noise; every prompt gets a picture of each, the same for all models.
        batch: pictures scored together; it changes memory and speed only.
        on_failure: `stop` at the first metric that fails, or `report` it as failed and go on.
    """

    folder: Path
    device: str = attrs.field(default="auto", validator=check_device)
    threads: int | None = attrs.field(
        default=None, validator=attrs.validators.optional(integer(1, THREADS))
    )
    compile: bool = attrs.field(default=False, validator=attrs.validators.instance_of(bool))
    attention: str = attrs.field(default="auto", validator=one_of(*ATTENTIONS))
    seeds: tuple[int, ...] = attrs.field(default=(0,), validator=_seeds)
    batch: int = attrs.field(default=16, validator=integer(1, BATCH))
    on_failure: Literal["stop", "report"] = "stop"


@attrs.frozen(kw_only=True)
class ModelSection:
    """A model to evaluate: the backbone as it is, or under the weights of a checkpoint.

    Args:
        checkpoint: a folder that a run saved, such as `runs/a/checkpoints/final`; one in diffusers
            layout; or a LoRA's folder or file. Null is the backbone itself.
        averaged: take the weights that the checkpoint holds as its model, which are the averaged
            ones where the run averaged; false takes those that the training would go on with.
        scale: of a LoRA; 0.5 is half of it.
        trained_on: the metric that is the reward it was trained on, against which the others are
            held out; null takes that of the run in whose folder the checkpoint is.
    """

    checkpoint: Path | None = None
    averaged: bool = True
    scale: float = attrs.field(default=1.0, validator=real(float("-inf")))
    trained_on: str | None = None

    def __attrs_post_init__(self) -> None:
        """Refuse what would have no effect."""
        if self.checkpoint is None and not self.averaged:
            raise ValueError(
                "`averaged` only applies to a checkpoint, and none is given; leave it out"
            )
        if self.checkpoint is None and self.scale != 1:
            raise ValueError(
                "`scale` only applies to a LoRA, and no `checkpoint` is given; leave it out"
            )


@attrs.frozen(kw_only=True)
class EvaluateSettings:
    """A whole evaluation.

    Args:
        evaluation: folder, device, seeds.
        backbone: the model before training.
        models: what is evaluated, by label; the others are compared with the first.
        prompts: held out of training.
        sampling: grid, guidance and size of the pictures, and how many are sampled together.
        metrics: what is measured, by label; a reward's name stands for the reward.
        embeddings: where those of the prompts are kept.
    """

    evaluation: EvaluationSection
    backbone: Component[Backbone]
    models: Mapping[str, ModelSection] = attrs.field(
        factory=lambda: {"base": ModelSection()}, validator=[_some, labels()]
    )
    prompts: HeldOutSource
    sampling: Sampling
    metrics: Mapping[str, Component[Metric]] = attrs.field(factory=dict, validator=labels(_COLUMNS))
    embeddings: EmbeddingSettings = attrs.field(factory=EmbeddingSettings)
