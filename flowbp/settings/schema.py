"""The schema of a run's YAML, one class for each section, and what follows from all of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import torch

from flowbp import limits
from flowbp.adapters import ACTIVATIONS, ATTENTIONS, Backbone, Full, Grid, Tuning
from flowbp.config import Component
from flowbp.core import LossShape, Method, Surrogate, draw_surrogate
from flowbp.evaluation import Judge, Metric, Sampling
from flowbp.prompts import EMBEDDING_BATCH
from flowbp.prompts.sources import HeldOutSource
from flowbp.rewards import Reward
from flowbp.settings.device import check_device, chosen_device
from flowbp.training import (
    AUTO,
    AdamW,
    Averaging,
    Batching,
    Constant,
    EarlyStop,
    Observer,
    OptimizerRecipe,
    PromptSource,
    SavePolicy,
    Schedule,
    TrackioSettings,
    TrainingSampling,
    WandbSettings,
)
from flowbp.training.division import Sharding
from flowbp.validators import Bounded, integer, one_of, real

# Untyped, because mypy takes the type of a field from its default alone.
_optional: Any = attrs.validators.optional


@attrs.frozen(kw_only=True)
class RunSettings:
    """Where a run writes and what it runs on.

    Args:
        folder: everything that the run writes goes here; it must be new or empty, unless the run
            that is in it goes on.
        seed: of prompts, surrogates, noise and copies. The same seed gives the same run.
        device: `auto` takes CUDA where there is any, else the CPU.
        threads: of torch on the CPU; torch decides if null.
        compile: the network's blocks and the decoder with torch.compile; the first steps take a
            minute or two longer, unless a run before has compiled the same, and the others about
            half as long on an H100.
        activations: share of the memory for activations that compiled blocks keep in a backward
            pass, 0.5 if null; less is slower. Only with `compile`.
        attention: the kernel of the network's attention on CUDA: `auto` measures `cudnn`, `flash`
            and `efficient` once for each shape and takes the fastest that agrees with float32;
            `native` is what diffusers and torch choose. Elsewhere `auto` is `native`.
    """

    folder: Path
    seed: int = attrs.field(default=0, validator=integer(0, limits.SEED))
    device: str = attrs.field(default="auto", validator=check_device)
    threads: int | None = attrs.field(default=None, validator=_optional(integer(1, limits.THREADS)))
    compile: bool = attrs.field(default=False, validator=attrs.validators.instance_of(bool))
    activations: float | None = attrs.field(default=None, validator=_optional(real(0, 1)))
    attention: str = attrs.field(default="auto", validator=one_of(*ATTENTIONS))

    def __attrs_post_init__(self) -> None:
        """Refuse what would not be read."""
        if self.activations is not None and not self.compile:
            raise ValueError(
                f"`activations` is {self.activations}, but only compiled blocks choose what they "
                "keep; write compile=true, or leave activations out"
            )

    @property
    def kept_activations(self) -> float:
        """The share that compiled blocks keep: `activations`, or what they keep by default."""
        return ACTIVATIONS if self.activations is None else self.activations


def _check_shard(_: object, attribute: attrs.Attribute[Any], value: Sharding) -> None:
    if value != AUTO and not isinstance(value, int):
        raise ValueError(f"`{attribute.name}` must be an integer >= 1 or 'auto', got {value!r}")
    if value != AUTO:
        integer(1, limits.BATCH)(_, attribute, value)


_shard = Bounded(_check_shard, integer(1, limits.BATCH).range)


@attrs.frozen(kw_only=True)
class DistributedSettings:
    """How the processes that torchrun starts share the work.

    Args:
        shard: how many processes share one copy of the model; 1 is the whole model in each, and
            under `auto` it is divided no more than it needs to fit.
    """

    shard: Sharding = attrs.field(default=AUTO, validator=_shard)


@attrs.frozen(kw_only=True)
class EmbeddingSettings:
    """Where text embeddings are kept; every prompt of a run is encoded before it starts.

    Args:
        folder: shared by all runs and models; null keeps them in memory, for this run only.
        batch: prompts encoded together; more than one is faster on a GPU, and then which prompts
            come together changes how they round.
    """

    folder: Path | None = attrs.field(
        factory=lambda: Path("~/.cache/flowbp/embeddings").expanduser()
    )
    batch: int = attrs.field(default=EMBEDDING_BATCH, validator=integer(1, limits.BATCH))


@attrs.frozen(kw_only=True)
class TrainingSettings:
    """How long and how carefully parameters are updated.

    The defaults are the published ones, but for the average's warm-up.

    Args:
        steps: optimizer steps.
        clip: largest norm of all gradients together; null does not clip.
        sample_clip: largest norm of one sample's cotangent, in medians of the batch, before the
            first pull and after each joint (`flowbp.core.SampleClip`); null does not clip.
        averaging: average the parameters, with a warm-up unless said otherwise; null does not.
            What is saved and evaluated in the end is the average, so that a run is refused in
            which the starting weights would make up more than half of it.

    Reference: arXiv 2606.11075.
    """

    steps: int = attrs.field(default=300, validator=integer(1, limits.STEPS))
    clip: float | None = attrs.field(default=1.0, validator=_optional(real(0, above=True)))
    sample_clip: float | None = attrs.field(default=None, validator=_optional(real(0, above=True)))
    averaging: Averaging | None = attrs.field(factory=lambda: Averaging(warmup=True))


@attrs.frozen(kw_only=True)
class AnchorSettings:
    """What holds the model near its reference, against reward hacking.

    Under LoRA the reference is the base model without any adapter, also where `start` named one, so
    that the distance is not zero at the start then; otherwise it is the model before training.

    Args:
        strength: factor of the mean squared distance of their velocities at the active steps.
    """

    strength: float = attrs.field(validator=real(0, above=True))


@attrs.frozen(kw_only=True)
class SampleSettings:
    """The same pictures every so many steps, to see the model change.

    They are those of the first held-out prompts, or of training prompts without an evaluation.

    Args:
        every: optimizer steps from one set to the next, besides one before and one at the end.
        count: how many pictures.
    """

    every: int = attrs.field(validator=integer(1, limits.STEPS))
    count: int = attrs.field(default=12, validator=integer(1, limits.SHOWN))


@attrs.frozen(kw_only=True)
class ObserverSettings:
    """What observes every step, besides the progress bar.

    Args:
        json_lines: write `metrics.jsonl`, and `evaluations.jsonl` of those inside the run.
        tensorboard: write event files to `tensorboard/`.
        wandb: send all to Weights & Biases; null does not.
        trackio: send all to trackio; null does not.
        others: observers by entry point or dotted path; they are offered `folder`, `steps` and
            `configuration`.
    """

    json_lines: bool = True
    tensorboard: bool = True
    wandb: WandbSettings | None = None
    trackio: TrackioSettings | None = None
    others: tuple[Component[Observer], ...] = ()


@attrs.frozen(kw_only=True)
class EvaluationSettings:
    """What is sampled before and after training, from the same noise.

    Args:
        prompts: held out of training.
        noise_seed: of the noise; independent of the run's seed, so that runs can be compared.
        batch: prompts sampled together; it changes memory and speed only.
        steps: Euler steps; those of `sampling` if null.
        guidance: scale of guidance; that of `sampling` if null.
        grid: sigmas of the steps; that of `sampling` if null.
        every: optimizer steps from one evaluation inside the run to the next, besides one before
            training and one at the end; null has none.
        count: how many of the prompts those inside the run take, each kind by its share; all if
            null.
        metrics: what those inside the run measure besides, by label; the run does not train on it.
            One that a file gives is taken away by null.
    """

    prompts: HeldOutSource
    noise_seed: int = attrs.field(default=0, validator=integer(0, limits.SEED))
    batch: int = attrs.field(default=16, validator=integer(1, limits.BATCH))
    steps: int | None = attrs.field(default=None, validator=_optional(integer(1, limits.GRID)))
    guidance: float | None = attrs.field(default=None, validator=_optional(real(float("-inf"))))
    grid: Grid | None = None
    every: int | None = attrs.field(default=None, validator=_optional(integer(1, limits.STEPS)))
    count: int | None = attrs.field(default=None, validator=_optional(integer(1, limits.COUNT)))
    metrics: Mapping[str, Component[Metric]] = attrs.field(factory=dict, validator=limits.labels())


@attrs.frozen(kw_only=True)
class Settings:
    """A whole run.

    Args:
        run: folder, seed and device.
        backbone: the model that is trained.
        tuning: what of it is trained.
        reward: what its pictures are to score high on.
        prompts: what it is trained on.
        method: draws the surrogate of each step.
        loss: makes a loss of each reward.
        sampling: grid, guidance and size of the pictures.
        batching: samples of a step and in what portions they are worked on, on each process.
        distributed: how several processes share the work.
        embeddings: where those of the prompts are kept.
        judge: the held-out verdict of the evaluation; null has none.
        evaluation: before and after; null evaluates nothing and writes no report.
        early_stop: ends the run by a held-out metric; null does not.
        optimizer: builds the optimizer.
        schedule: of the learning rate, over all steps.
        training: steps, clipping, averaging.
        anchor: holds the model near its reference; null does not.
        samples: pictures every so many steps; null takes none.
        checkpoints: how often to save.
        observers: metrics as files, and those of others.
    """

    run: RunSettings
    backbone: Component[Backbone]
    reward: Component[Reward]
    prompts: PromptSource
    method: Method
    loss: LossShape
    sampling: TrainingSampling
    batching: Batching
    distributed: DistributedSettings = attrs.field(factory=DistributedSettings)
    tuning: Tuning = attrs.field(factory=Full)
    embeddings: EmbeddingSettings = attrs.field(factory=EmbeddingSettings)
    judge: Component[Judge] | None = None
    evaluation: EvaluationSettings | None = None
    early_stop: EarlyStop | None = None
    optimizer: OptimizerRecipe = attrs.field(factory=AdamW)
    schedule: Schedule = attrs.field(factory=Constant)
    training: TrainingSettings = attrs.field(factory=TrainingSettings)
    anchor: AnchorSettings | None = None
    samples: SampleSettings | None = None
    checkpoints: SavePolicy = attrs.field(factory=SavePolicy)
    observers: ObserverSettings = attrs.field(factory=ObserverSettings)


def example_surrogate(settings: Settings, seed: int) -> Surrogate:
    """What the method draws from a seed."""
    sampling = settings.sampling
    # For the model's own grid, not known before it is loaded, one of shift 3 stands, under which
    # rules differ that agree on even steps.
    known = sampling.grid.known(sampling.steps)
    even = torch.linspace(1, 0, sampling.steps + 1)
    grid = 3 * even / (1 + 2 * even) if known is None else known
    return draw_surrogate(settings.method, grid, torch.Generator().manual_seed(seed))


def evaluation_sampling(settings: Settings) -> Sampling | None:
    """How held-out prompts are sampled; None without an evaluation."""
    own = settings.evaluation
    if own is None:
        return None
    return _sampling(settings, own.batch, steps=own.steps, guidance=own.guidance, grid=own.grid)


def calibration_sampling(settings: Settings) -> Sampling:
    """How pictures are sampled that a weighted reward is calibrated on: as in training."""
    return _sampling(settings, settings.batching.samples)


def _sampling(
    settings: Settings,
    batch: int,
    *,
    steps: int | None = None,
    guidance: float | None = None,
    grid: Grid | None = None,
) -> Sampling:
    training, decode = settings.sampling, settings.batching.decode
    if decode == AUTO:
        # Nothing is measured before training; one picture at a time fits if a training step does.
        on_cuda = chosen_device(settings.run.device).type == "cuda"
        decode = 1 if on_cuda else batch
    return Sampling(
        steps=steps or training.steps,
        height=training.height,
        width=training.width,
        guidance=training.guidance if guidance is None else guidance,
        negative_prompt=training.negative_prompt,
        batch=batch,
        decode=decode,
        grid=grid or training.grid,
    )


def evaluation_every(settings: Settings) -> int | None:
    """Optimizer steps from one evaluation inside the run to the next; None without any."""
    stop, evaluation = settings.early_stop, settings.evaluation
    every = evaluation.every if evaluation else None
    return every or (stop.every if stop else None)
